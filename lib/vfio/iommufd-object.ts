/** Something with a number in an iommufd. */
export abstract class IommufdObject {
  readonly id: number;
  /** who needs it, beside the table of objects: it is not destroyed before they let it go */
  users = 0;

  constructor(id: number) {
    this.id = id;
  }

  /** It has left the table of objects. */
  abstract destroy(): void;
}
