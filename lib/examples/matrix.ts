/** Prints the capability matrix, one table a request. */
import { print, requests } from "./capability-matrix.ts";

for (const request of requests) console.log(`\n${print(request)}`);
