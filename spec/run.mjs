/** Runs a TypeScript program of this repository: `node spec/run.mjs FILE [ARGUMENTS]`. Node 20 takes no types itself. */
import { basename } from "node:path";
import { pathToFileURL } from "node:url";
import { build } from "esbuild";

const [, , file, ...args] = process.argv;
const outfile = `dist/run/${basename(file, ".ts")}.js`;
await build({
  entryPoints: [file],
  outfile,
  bundle: true,
  platform: "node",
  format: "esm",
  target: "node20",
  packages: "external",
  logLevel: "warning",
});
process.argv = [process.argv[0], outfile, ...args];
await import(pathToFileURL(outfile).href);
