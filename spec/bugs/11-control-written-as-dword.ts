/**
 * The message control word lies at offset 2 of the MSI-X capability. Some guests write it as the upper half of a dword at
 * offset 0; a VMM that looks at offset 2 alone lets that write through to the configuration space and keeps believing
 * that MSI-X is off. Mended: whatever covers the word is decoded.
 */
import { MSIX_ENABLE, MSIX_FUNCTION_MASK } from "../../lib/fuzz/explore/msix-bench.ts";
import type { Thread } from "../../lib/fuzz/explore/thread.ts";
import { msixBug } from "./bug.ts";
import { PlainVmm } from "./plain-vmm.ts";

class Mended extends PlainVmm {
  /** Decodes a write to the capability and applies it. */
  *control(offset: number, width: number, value: number): Thread {
    if (offset === 2) yield* this.set(value);
    else if (offset === 0 && width === 4) yield* this.set(value >>> 16);
  }

  *set(word: number): Thread {
    this.enabled = (word & MSIX_ENABLE) !== 0;
    this.functionMasked = (word & MSIX_FUNCTION_MASK) !== 0;
    yield* this.updateAll();
  }
}

class Broken extends Mended {
  override *control(offset: number, _width: number, value: number): Thread {
    if (offset === 2) yield* this.set(value);
  }
}

export const bug = msixBug({
  number: 11,
  title: "MSI-X control written as a dword is not seen",
  reference: "cloud-hypervisor #3714, again 8248650e7",
  options: {
    vectors: 1,
    enabled: false,
    guest: [
      ["control", 2, 2, MSIX_ENABLE],
      ["unmask", 0],
      ["control", 0, 4, (MSIX_ENABLE | MSIX_FUNCTION_MASK) * 0x1_0000],
      ["control", 0, 4, MSIX_ENABLE * 0x1_0000],
    ],
    device: [0],
  },
  broken: (bench) => new Broken(bench),
  mended: (bench) => new Mended(bench),
});
