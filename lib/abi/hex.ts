/** Bytes as text: two digits a byte, lower-case, in the order of memory. Traces, profiles and programs of the fuzzer hold them so. */

const pairs = Array.from({ length: 256 }, (_, byte) => byte.toString(16).padStart(2, "0"));

/** Hex of bytes: `toHex(Uint8Array.of(0, 255))` is `"00ff"`. */
export function toHex(bytes: ArrayLike<number>): string {
  let text = "";
  for (let i = 0; i < bytes.length; i++) text += pairs[bytes[i]];
  return text;
}

/** Bytes from hex, of either case. Whoever read the text has checked that it is hex. */
export function fromHex(hex: string): Uint8Array {
  const bytes = new Uint8Array(hex.length >> 1);
  for (let i = 0; i < bytes.length; i++) bytes[i] = (digit(hex, 2 * i) << 4) | digit(hex, 2 * i + 1);
  return bytes;
}

const digit = (hex: string, at: number): number => {
  const code = hex.charCodeAt(at) | 0x20;
  return code <= 0x39 ? code - 0x30 : code - 0x57;
};
