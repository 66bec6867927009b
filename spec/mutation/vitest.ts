/**
 * What the specs use of vitest, without its runner: `describe` and `test` only collect, so that a campaign can call one
 * test again and again in one process, for thousands of mutants. Expectations are vitest's own, with a short way for
 * the one that nearly every test makes.
 */
import { chai, expect as inFull, vi as realVi } from "vitest";

type Body = (...args: unknown[]) => unknown;

/** One test of a spec; `id` stays the same from build to build. */
export interface Test {
  id: string;
  spec: string;
  /** around every run of it, from the outer suite to the inner one */
  before: Body[];
  after: Body[];
  body: () => unknown;
}

interface Suite {
  name: string;
  before: Body[];
  after: Body[];
  outer: Suite | undefined;
}

/** Every test, in the order of the specs. */
export const tests: Test[] = [];
let suite: Suite = { name: "", before: [], after: [], outer: undefined };
let spec = "";
const ids = new Map<string, number>();
const finished: Body[] = [];

/** What is collected from here on belongs to this spec. */
export function enterSpec(path: string): void {
  spec = path;
  suite = { name: path, before: [], after: [], outer: undefined };
}

const suites = (from: Suite): Suite[] => (from.outer === undefined ? [from] : [...suites(from.outer), from]);

function addTest(name: string, body: () => unknown): void {
  const title = [...suites(suite).map((each) => each.name), name].join(" › ");
  const count = ids.get(title) ?? 0;
  ids.set(title, count + 1);
  const within = suites(suite);
  tests.push({
    id: count === 0 ? title : `${title} #${count}`,
    spec,
    before: within.flatMap((each) => each.before),
    after: within.flatMap((each) => each.after),
    body,
  });
}

function addSuite(name: string, body: () => unknown): void {
  suite = { name, before: [], after: [], outer: suite };
  try {
    body();
  } finally {
    suite = suite.outer as Suite;
  }
}

/** `test(name, options, body)` and `test(name, body, timeout)`; the same of suites. */
const bodyOf = (args: unknown[]): Body | undefined =>
  args.find((arg): arg is Body => typeof arg === "function");

function collector(add: (name: string, body: () => unknown) => void) {
  const collect = (name: string, ...args: unknown[]): void => {
    const body = bodyOf(args);
    if (body !== undefined) add(name, () => body({}));
  };
  const never = (): void => {};
  const each =
    (cases: readonly unknown[]) =>
    (name: string, ...args: unknown[]): void => {
      const body = bodyOf(args);
      if (body === undefined) return;
      cases.forEach((one, index) => {
        add(`${name} [${index}]`, () => (Array.isArray(one) ? body(...one) : body(one)));
      });
    };
  const withEach = Object.assign(collect, { each });
  return Object.assign(withEach, {
    skip: Object.assign(never, { each: () => never }),
    skipIf: (condition: unknown) => (condition ? Object.assign(never, { each: () => never }) : withEach),
    runIf: (condition: unknown) => (condition ? withEach : Object.assign(never, { each: () => never })),
  });
}

export const test = collector(addTest);
export const it = test;
export const describe = collector(addSuite);
export const beforeEach = (body: Body): void => void suite.before.push(body);
export const afterEach = (body: Body): void => void suite.after.unshift(body);
/** Once, before the first test that is run of its suite. */
export const beforeAll = (body: Body): void => {
  let done = false;
  beforeEach(() => (done ? undefined : ((done = true), body())));
};
export const afterAll = (): void => {};
export const onTestFinished = (body: Body): void => void finished.push(body);
export const vi = realVi;

/** Runs one test, with what goes before and after it; throws what it throws. */
export async function runTest(one: Test): Promise<void> {
  try {
    for (const body of one.before) await body();
    const result = one.body();
    if (result instanceof Promise) await result;
  } finally {
    while (finished.length > 0) await finished.pop()?.();
    for (const body of one.after) await body();
  }
}

/** `expect`, without the making of an assertion where two plain values are the same. */
export const expect = new Proxy(inFull, {
  apply(target, self, args: [unknown, string?]) {
    const [value] = args;
    if (typeof value === "object" && value !== null) return Reflect.apply(target, self, args);
    return new Plain(args);
  },
});

class Plain {
  declare args: [unknown, string?];
  constructor(args: [unknown, string?]) {
    this.args = args;
  }
  toBe(expected: unknown): void {
    if (!Object.is(this.args[0], expected)) inFull(...this.args).toBe(expected);
  }
}
for (const name of ["not", "resolves", "rejects", ...Object.getOwnPropertyNames(chai.Assertion.prototype)])
  if (!(name in Plain.prototype))
    Object.defineProperty(Plain.prototype, name, {
      get(this: Plain) {
        const expectation = inFull(...this.args) as unknown as Record<string, unknown>;
        const found = expectation[name];
        if (typeof found !== "function") return found;
        return (...args: unknown[]) => Reflect.apply(found, expectation, args);
      },
    });
