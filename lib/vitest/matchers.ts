/**
 * Matchers: `expect(linux.ioctl(…)).toFailWith("EBUSY")`, `expect(host).toHaveDelivered(0x41, 1)`.
 *
 * Exactly so many deliveries, never "at least"; what was expected is accounted for when the test ends.
 */
import { errnoName, errnoNumbers } from "../abi/errno.ts";
import { LinuxError } from "../kernel/checked.ts";
import { TestHost } from "./host.ts";
import { hex, WatchedVcpu } from "./watched.ts";

/** What a matcher answers vitest. */
export interface MatcherResult {
  readonly pass: boolean;
  readonly message: () => string;
  readonly actual?: unknown;
  readonly expected?: unknown;
}

const LAST_ERRNO = 4095;

/** What a system call answered: its number, or the error that a checked one threw. */
function outcomeOf(received: unknown): number | undefined {
  if (typeof received === "function")
    try {
      return outcomeOf(received());
    } catch (error) {
      if (error instanceof LinuxError) return error.errno;
      throw error;
    }
  return typeof received === "number" ? received : undefined;
}

const spoken = (result: number | undefined): string =>
  result === undefined
    ? "that is no answer of a system call"
    : result < 0 && result >= -LAST_ERRNO
      ? `it failed with ${errnoName(-result)}`
      : `it answered ${result}`;

/**
 * `received`: a raw answer, or a function that makes the call, checked or not. `code`: "EBUSY". Throws for a code that is
 * no error of Linux: `not` would be content with it.
 */
export function toFailWith(received: unknown, code: string): MatcherResult {
  if (!(code in errnoNumbers))
    throw new TypeError(`toFailWith: ${JSON.stringify(code)} is no error of Linux`);
  const result = outcomeOf(received);
  const actual = result !== undefined && result < 0 ? errnoName(-result) : result;
  const pass = actual === code;
  return {
    pass,
    actual,
    expected: code,
    message: () =>
      pass
        ? `expected the call not to fail with ${code}`
        : `expected the call to fail with ${code}: ${spoken(result)}`,
  };
}

/**
 * `received`: a host, for all its vCPUs together, or one of them (`host.vcpu(process, fd)`). `number`: a vector of a local
 * APIC, an INTID of a GIC, a source of a XICS or XIVE. Throws for anything else, and where nothing is counted.
 */
export function toHaveDelivered(received: unknown, number: number, times = 1): MatcherResult {
  const vcpus =
    received instanceof TestHost
      ? received.counted
      : received instanceof WatchedVcpu
        ? [received]
        : undefined;
  if (vcpus === undefined)
    throw new TypeError("toHaveDelivered is asked of a host, or of host.vcpu(process, fd)");
  const delivered = vcpus.reduce((sum, vcpu) => sum + vcpu.delivered(number), 0);
  const pass = delivered === times;
  if (pass) for (const vcpu of vcpus) vcpu.expected(number);
  const name = vcpus.length === 0 ? hex(number) : vcpus[0].nameOf(number);
  return {
    pass,
    actual: delivered,
    expected: times,
    message: () =>
      pass
        ? `expected ${name} not to be delivered exactly ${times}×`
        : `expected ${name} to be delivered ${times}×, it was ${delivered}×; delivered: ${told(vcpus)}`,
  };
}

function told(vcpus: readonly WatchedVcpu[]): string {
  const parts = vcpus.flatMap((vcpu) =>
    [...vcpu.deliveries].map(([number, times]) => `${vcpu.nameOf(number)} ${times}× to vCPU ${vcpu.id}`),
  );
  return parts.length === 0 ? "nothing" : parts.join(", ");
}
