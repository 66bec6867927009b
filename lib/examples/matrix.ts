/** Prints the capability matrix, one table a request, and what becomes of source numbers beyond 16 bits. */
import { print, requests } from "./capability-matrix.ts";
import { print as printLinear } from "./linear-gsi.ts";

for (const request of requests) console.log(`\n${print(request)}`);
console.log(`\nPOWER: linear GSIs\n\n${printLinear()}`);
