/** LOCK is for instructions that read and write memory; before others it is #UD (Intel SDM volume 2, "LOCK"). */

/** Whether an opcode (after 0F with 0x100 added) may have the prefix, by its ModRM byte. */
export function lockable(opcode: number, mod: number, modrm: number): boolean {
  if (mod === 3) return false;
  const group = (modrm >> 3) & 7;
  if (opcode < 0x40) return (opcode & 7) < 2 && opcode < 0x38;
  switch (opcode) {
    case 0x80:
    case 0x81:
    case 0x82:
    case 0x83:
      return group !== 7;
    case 0x86:
    case 0x87:
    case 0x1ab:
    case 0x1b0:
    case 0x1b1:
    case 0x1b3:
    case 0x1bb:
    case 0x1c0:
    case 0x1c1:
      return true;
    case 0xf6:
    case 0xf7:
      return group === 2 || group === 3;
    case 0xfe:
    case 0xff:
      return group < 2;
    case 0x1ba:
      return group > 4;
    case 0x1c7:
      return group === 1;
    default:
      return false;
  }
}
