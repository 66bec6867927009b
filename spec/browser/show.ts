/** `npm run browser`: writes the page to dist/browser.html and, where there is a Chromium, a picture of it beside it. */
import { mkdirSync, writeFileSync } from "node:fs";
import { resolve } from "node:path";
import { chromium, open, page } from "./bundle.ts";

mkdirSync("dist", { recursive: true });
writeFileSync("dist/browser.html", await page());
console.log("dist/browser.html");
const browser = chromium();
if (browser === undefined) console.log("no picture: no Chromium in the path, and CHROMIUM names none");
else {
  open(
    browser,
    `file://${resolve("dist/browser.html")}`,
    `--screenshot=${resolve("dist/browser.png")}`,
    "--window-size=1200,1000",
  );
  console.log("dist/browser.png");
}
