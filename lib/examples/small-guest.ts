/**
 * The guest of the small VMM: x86 machine code in real mode, put together from a script. Segment bases reach beyond the
 * first megabyte: ES the local APIC, FS the virtio-like device, GS the BARs of the assigned devices.
 */

/** where the code, the handlers and the flags of handled interrupts lie */
export const CODE = 0x1000;
const HANDLERS = 0x2000;
const HANDLER_SIZE = 64;
const FLAGS = 0x600;
/** ports by which the guest tells its VMM something */
export const PORT_HANDLED = 0x80;
export const PORT_DONE = 0x81;

const LAPIC_EOI = 0xb0;

const word = (value: number): number[] => [value & 0xff, (value >>> 8) & 0xff];
const long = (value: number): number[] => [...word(value), ...word(value >>> 16)];

/** mov dword [seg:offset], value */
const store = (segment: number, offset: number, value: number): number[] => [
  segment,
  0x66,
  0xc7,
  0x06,
  ...word(offset),
  ...long(value),
];

export const es = (offset: number, value: number): number[] => store(0x26, offset, value);
export const fs = (offset: number, value: number): number[] => store(0x64, offset, value);
export const gs = (offset: number, value: number): number[] => store(0x65, offset, value);

/** mov dx, port; mov eax, value; out dx, eax */
export const out32 = (port: number, value: number): number[] => [
  0xba,
  ...word(port),
  0x66,
  0xb8,
  ...long(value),
  0x66,
  0xef,
];
/** mov dx, port; mov ax, value; out dx, ax */
export const out16 = (port: number, value: number): number[] => [
  0xba,
  ...word(port),
  0xb8,
  ...word(value),
  0xef,
];
/** mov al, value; out port, al */
export const out8 = (port: number, value: number): number[] => [0xb0, value, 0xe6, port];

/** cli; while the flag is 0: sti, hlt, cli. Then the flag is 0 again. */
export const waitFor = (interrupt: number): number[] => {
  const flag = word(FLAGS + interrupt);
  const loop = [0xfa, 0x80, 0x3e, ...flag, 0x00, 0x75, 0x04, 0xfb, 0xf4, 0xeb];
  return [...loop, 256 - (loop.length + 1), 0xc6, 0x06, ...flag, 0x00, 0xfb];
};

/** What the guest does when an interrupt comes: this, then it tells its VMM, and ends the interrupt. */
const handler = (interrupt: number, serve: readonly number[]): number[] => [
  0x50, // push ax
  ...serve,
  0xc6,
  0x06,
  ...word(FLAGS + interrupt),
  0x01,
  ...out8(PORT_HANDLED, interrupt),
  ...es(LAPIC_EOI, 0),
  0x58, // pop ax
  0xcf, // iret
];

export interface GuestScript {
  readonly main: readonly (readonly number[])[];
  /** by vector: number of the interrupt (below 16), and how its device is served */
  readonly handlers: ReadonlyMap<number, { interrupt: number; serve: readonly number[] }>;
}

/** The first 64 KiB of the guest's memory. */
export function guestMemory({ main, handlers }: GuestScript): Uint8Array {
  const memory = new Uint8Array(0x1_0000);
  memory.set([...main.flat(), ...out8(PORT_DONE, 0), 0xf4], CODE);
  for (const [vector, { interrupt, serve }] of handlers) {
    const at = HANDLERS + HANDLER_SIZE * interrupt;
    memory.set(handler(interrupt, serve), at);
    memory.set([...word(at), 0, 0], 4 * vector);
  }
  return memory;
}
