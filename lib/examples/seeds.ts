/** Prints the tables of the five threads, the failures that exploration finds, and what became of each claim. */
import { table } from "./print.ts";
import { found, threads } from "./threads.ts";

for (const { name, print, failures, claims } of threads) {
  console.log(`\n${name}\n`);
  console.log(print());
  for (const failure of failures) console.log(`\n${found(failure)}`);
  const rows = claims.map(({ who, says, holds, by }) => [
    who,
    says,
    holds() ? "confirmed" : "contradicted",
    by,
  ]);
  console.log(`\n${table(["who", "says", "the run says", "by"], rows)}`);
}
