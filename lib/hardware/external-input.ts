/**
 * The external interrupt input of a POWER processor: one wire. A presenter raises it and only raises it; the processor
 * lowers it when it accepts an interrupt or masks more (H_XIRR, H_CPPR).
 */
export interface ExternalInput {
  external: boolean;
}
