import { expect, test } from "vitest";
import { fromHex, toHex } from "../../lib/abi/hex.ts";

test("every byte comes back, whichever case its digits have", () => {
  const all = Uint8Array.from({ length: 256 }, (_, byte) => byte);
  expect(toHex(all).slice(0, 8)).toBe("00010203");
  expect(toHex(all).slice(-4)).toBe("feff");
  expect(fromHex(toHex(all))).toEqual(all);
  expect(fromHex(toHex(all).toUpperCase())).toEqual(all);
});
