/**
 * Where the descriptors and the pointers of a struct are: what a process that shows other descriptor numbers than the
 * kernel's has to translate, and a recorder too.
 */
import type { FieldType, StructType } from "./struct.ts";

/** One place in a struct: `size` bytes at `at` hold a descriptor, or an address. */
export interface Place {
  readonly at: number;
  readonly size: number;
  /** the names of the fields on the way, without indices: "ranges.bitmap" */
  readonly field: string;
}

const known = { fd: new WeakMap<StructType, Place[]>(), pointer: new WeakMap<StructType, Place[]>() };

/** Where the descriptors or the pointers of a struct are, nested structs, unions and arrays included. */
export function placesOf(struct: StructType, kind: "fd" | "pointer"): readonly Place[] {
  let places = known[kind].get(struct);
  if (places === undefined) {
    const found = new Map<number, Place>();
    collect(struct, 0, "", kind, found);
    places = [...found.values()].sort((a, b) => a.at - b.at);
    known[kind].set(struct, places);
  }
  return places;
}

/** Members of a union share places: each place counts once. */
function collect(field: FieldType, at: number, name: string, kind: string, found: Map<number, Place>): void {
  if (field.kind === kind) found.set(at, { at, size: field.size, field: name });
  else if (field.element !== undefined)
    for (let i = 0; i < (field.length ?? 0); i++)
      collect(field.element, at + i * field.element.size, name, kind, found);
  else if (field.struct !== undefined)
    for (const [member, type] of Object.entries(field.struct.fields))
      collect(
        type,
        at + field.struct.offsetOf[member],
        name === "" ? member : `${name}.${member}`,
        kind,
        found,
      );
}
