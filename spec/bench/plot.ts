/** A plot as SVG: lines over two logarithmic axes. */

export interface Series {
  readonly name: string;
  /** what is counted, and nanoseconds */
  readonly points: readonly (readonly [n: number, nanoseconds: number])[];
}

const WIDTH = 640;
const HEIGHT = 400;
const LEFT = 70;
const RIGHT = 190;
const TOP = 44;
const BOTTOM = 50;
const COLOURS = ["#1f6feb", "#c2410c", "#15803d", "#7e22ce", "#a16207"];

const decades = (values: readonly number[]): [number, number] => [
  Math.floor(Math.log10(Math.min(...values))),
  Math.max(Math.ceil(Math.log10(Math.max(...values))), Math.floor(Math.log10(Math.min(...values))) + 1),
];

const time = (ns: number): string => (ns < 1e3 ? `${ns} ns` : ns < 1e6 ? `${ns / 1e3} µs` : `${ns / 1e6} ms`);

/** One picture; `unit` is what the horizontal axis counts. */
export function plot(title: string, unit: string, series: readonly Series[]): string {
  const points = series.flatMap((each) => each.points);
  const [x0, x1] = decades(points.map(([n]) => n));
  const [y0, y1] = decades(points.map(([, ns]) => ns));
  const x = (n: number): number => LEFT + ((Math.log10(n) - x0) / (x1 - x0)) * (WIDTH - LEFT - RIGHT);
  const y = (ns: number): number =>
    HEIGHT - BOTTOM - ((Math.log10(ns) - y0) / (y1 - y0)) * (HEIGHT - TOP - BOTTOM);
  const parts: string[] = [];
  for (let decade = x0; decade <= x1; decade++)
    parts.push(
      `<line x1="${x(10 ** decade)}" x2="${x(10 ** decade)}" y1="${TOP}" y2="${HEIGHT - BOTTOM}" stroke="#e5e5e5"/>`,
      `<text x="${x(10 ** decade)}" y="${HEIGHT - BOTTOM + 18}" text-anchor="middle">${(10 ** decade).toLocaleString("en")}</text>`,
    );
  for (let decade = y0; decade <= y1; decade++)
    parts.push(
      `<line x1="${LEFT}" x2="${WIDTH - RIGHT}" y1="${y(10 ** decade)}" y2="${y(10 ** decade)}" stroke="#e5e5e5"/>`,
      `<text x="${LEFT - 8}" y="${y(10 ** decade) + 4}" text-anchor="end">${time(10 ** decade)}</text>`,
    );
  series.forEach(({ name, points: own }, i) => {
    const colour = COLOURS[i % COLOURS.length];
    parts.push(
      `<polyline fill="none" stroke="${colour}" stroke-width="2" points="${own.map(([n, ns]) => `${x(n).toFixed(1)},${y(ns).toFixed(1)}`).join(" ")}"/>`,
      ...own.map(
        ([n, ns]) => `<circle cx="${x(n).toFixed(1)}" cy="${y(ns).toFixed(1)}" r="3" fill="${colour}"/>`,
      ),
      `<rect x="${WIDTH - RIGHT + 14}" y="${TOP + 22 * i}" width="12" height="12" fill="${colour}"/>`,
      `<text x="${WIDTH - RIGHT + 32}" y="${TOP + 22 * i + 10}">${name}</text>`,
    );
  });
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${HEIGHT}" font-family="system-ui, sans-serif" font-size="12">
<rect width="${WIDTH}" height="${HEIGHT}" fill="#fff"/>
<text x="${LEFT}" y="24" font-size="15" font-weight="600">${title}</text>
${parts.join("\n")}
<text x="${(LEFT + WIDTH - RIGHT) / 2}" y="${HEIGHT - 10}" text-anchor="middle">${unit}</text>
</svg>
`;
}
