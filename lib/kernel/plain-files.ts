/** Files of no interest of their own: what a program opens to see that they are refused. */
import type { Argument } from "./argument.ts";
import { File } from "./file.ts";
import type { Kernel } from "./kernel.ts";

/** /dev/null: reads find the end, writes vanish. */
class NullFile extends File {
  readonly name = "/dev/null";
  override readonly stream = false;
  override read(): number {
    return 0;
  }
  override write(_user: Argument, count: number): number {
    return count;
  }
}

/** A regular file that is always empty. */
class EmptyFile extends File {
  readonly name: string;
  override readonly stream = false;

  constructor(kernel: Kernel, flags: number, path: string) {
    super(kernel, flags);
    this.name = path;
  }
  override read(): number {
    return 0;
  }
  override write(_user: Argument, count: number): number {
    return count;
  }
}

/** /dev/null, and files under /tmp that exist as soon as they are opened. */
export function addPlainFiles(kernel: Kernel): void {
  kernel.nodes.set("/dev/null", (_process, flags) => new NullFile(kernel, flags));
  kernel.nodes.set("/tmp/", (_process, flags, path) => new EmptyFile(kernel, flags, path));
}
