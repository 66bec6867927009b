/** Copies to the program that end at the first byte that cannot be written, as copy_to_user does. */
import { EFAULT } from "../abi/errno.ts";
import type { Argument } from "../kernel/argument.ts";

/** Writes `source` at `skip` of the argument: false for EFAULT, with everything before the fault written. */
export function copyOut(user: Argument, source: Uint8Array, skip = 0): boolean {
  let fits = source.length;
  if (!user.writable(fits, skip)) {
    let beyond = fits;
    fits = 0;
    while (fits + 1 < beyond) {
      const middle = (fits + beyond) >>> 1;
      if (user.writable(middle, skip)) fits = middle;
      else beyond = middle;
    }
    if (fits > 0) user.writable(fits, skip);
  }
  if (fits > 0) user.bytes.set(source.subarray(0, fits), user.at + skip);
  return fits === source.length;
}

/** A handler that answers with a struct of `size` bytes. */
export const answering =
  <F>(size: number, fill: (file: F, bytes: Uint8Array, at: number) => void) =>
  (file: F, user: Argument): number => {
    if (user.writable(size)) {
      fill(file, user.bytes, user.at);
      return 0;
    }
    const answer = new Uint8Array(size);
    fill(file, answer, 0);
    copyOut(user, answer);
    return -EFAULT;
  };
