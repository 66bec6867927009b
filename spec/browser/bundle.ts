/** The page as one file, and where a browser is that can open it. */
import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { delimiter, join } from "node:path";
import { build, type Metafile } from "esbuild";
import { readTrace } from "../../lib/trace/files.ts";
import { formatTrace } from "../../lib/trace/format.ts";

const TRACE = "fixtures/traces/x86_64-kvm-6.18/memslots.jsonl.gz";

/** A file of the repository and all it needs, as a browser gets it. */
export async function bundle(
  entry: string,
  define: Record<string, string> = {},
): Promise<{ code: string; metafile: Metafile }> {
  const { outputFiles, metafile } = await build({
    entryPoints: [entry],
    bundle: true,
    platform: "browser",
    format: "iife",
    target: "es2023",
    minify: true,
    metafile: true,
    write: false,
    logLevel: "silent",
    define,
  });
  return { code: outputFiles[0].text, metafile };
}

/** The page, which needs nothing else. */
export async function page(): Promise<string> {
  const { code } = await bundle("spec/browser/page.ts", {
    TRACE: JSON.stringify(formatTrace(readTrace(TRACE))),
  });
  return `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>fake-kvm in a browser</title>
<style>
  body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 68rem; padding: 0 1rem; color: #1c1c1c; }
  pre { font: 12.5px/1.55 ui-monospace, monospace; background: #f5f5f2; padding: 1rem; overflow-x: auto; }
  #trace { max-height: 22rem; overflow-y: auto; }
  #verdict { font-weight: 600; }
</style>
<h1>fake-kvm</h1>
<h2>irqfd resampling, with a guest that takes the interrupt</h2>
<pre id="resampling"></pre>
<h2>A trace of a real kernel, made again here</h2>
<p id="verdict"></p>
<pre id="trace"></pre>
<script>${code.replaceAll("</script", "<\\/script")}</script>
</html>
`;
}

/** The first Chromium of the path, or the one that the variable CHROMIUM names. */
export function chromium(): string | undefined {
  const named = process.env.CHROMIUM;
  if (named !== undefined) return named;
  const folders = (process.env.PATH ?? "").split(delimiter);
  return ["chromium", "chromium-browser", "google-chrome"]
    .flatMap((name) => folders.map((folder) => join(folder, name)))
    .find((path) => existsSync(path));
}

/** Opens a page: what `--dump-dom` or `--screenshot` asks for. */
export function open(browser: string, url: string, ...what: string[]): string {
  const profile = mkdtempSync(join(tmpdir(), "fake-kvm-browser-"));
  const { stdout, stderr, status } = spawnSync(
    browser,
    [
      "--headless",
      "--no-sandbox",
      "--disable-gpu",
      "--disable-quic",
      "--no-first-run",
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync",
      `--user-data-dir=${profile}`,
      ...what,
      url,
    ],
    { encoding: "utf8", timeout: 60_000 },
  );
  rmSync(profile, { recursive: true, force: true, maxRetries: 5 });
  if (status !== 0) throw new Error(`${browser} ended with ${status}: ${stderr}`);
  return stdout;
}
