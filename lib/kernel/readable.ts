/**
 * The one promise of this floor: it settles when a file becomes ready, so that a TypeScript VMM can `await` an
 * eventfd. Nothing in the kernel waits for it.
 */
import type { File } from "./file.ts";
import type { Waiter } from "./wait-queue.ts";

/** Resolves to 0 as soon as one of `events` holds on the file. */
export function whenReady(file: File, events: number): Promise<number> {
  if ((file.poll() & events) !== 0) return Promise.resolve(0);
  return new Promise((resolve) => {
    const waiter: Waiter = {
      exclusive: false,
      wake: () => {
        if ((file.poll() & events) === 0 && file.references !== 0) return false;
        file.waitQueue?.remove(waiter);
        resolve(0);
        return true;
      },
    };
    file.waitQueue?.add(waiter);
  });
}
