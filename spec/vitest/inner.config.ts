/** Runs `leftovers.inner.ts`, whose tests fail on purpose. */
export default { test: { include: ["spec/vitest/leftovers.inner.ts"] } };
