/** What somebody said in a thread, and the run that decides whether it is so. */
export interface Claim {
  readonly who: string;
  /** date of the message */
  readonly when: string;
  readonly says: string;
  /** runs it: whether it is as said */
  holds(): boolean;
  /** what the run says; a spec compares */
  readonly verdict: "confirmed" | "contradicted";
  /** what was run, or in what respect it is otherwise */
  readonly by: string;
}
