/**
 * The charts of docs/performance.md, as SVG by hand: they bring their own ground, so that they can be read in light
 * and dark.
 */
import type { Result } from './measure.ts'

/** What grows, and what it costs: measured points, and the exponent of the power that fits them best. */
export interface Curve {
  readonly name: string
  readonly grows: string
  readonly unit: string
  readonly series: readonly {
    readonly name: string
    readonly points: readonly (readonly [x: number, y: number])[]
    readonly exponent: number
  }[]
  readonly stopped?: string
}

/** The power between the last two points: what the fit over all of them hides when the curve bends. */
export function atTheEnd(points: readonly (readonly [number, number])[]): number {
  const [a, b] = points.slice(-2)
  return a && b ? Math.log(b[1] / a[1]) / Math.log(b[0] / a[0]) : NaN
}

const STYLE = `
  .ground { fill: #ffffff } text { fill: #24292f; font: 11px system-ui, sans-serif } .title { font-size: 14px; font-weight: 600 } .small { font-size: 9px } .quiet { fill: #57606a }
  .grid { stroke: #d8dee4 } .axis { stroke: #57606a } .c0 { fill: #8c959f; stroke: #8c959f } .c1 { fill: #2f6fd0; stroke: #2f6fd0 } .c2 { fill: #c77700; stroke: #c77700 } .c3 { fill: #0a8f6c; stroke: #0a8f6c }
  .line { fill: none; stroke-width: 2 } .thin { stroke-width: 2 }
  @media (prefers-color-scheme: dark) {
    .ground { fill: #0d1117 } text { fill: #e6edf3 } .quiet { fill: #9198a1 } .grid { stroke: #30363d } .axis { stroke: #9198a1 }
    .c0 { fill: #8b949e; stroke: #8b949e } .c1 { fill: #6ea8fe; stroke: #6ea8fe } .c2 { fill: #f0a63a; stroke: #f0a63a } .c3 { fill: #3fcf9f; stroke: #3fcf9f } .line { fill: none }
  }`
const escaped = (text: string): string => text.replace(/[<>&"]/g, (c) => `&#${c.charCodeAt(0)};`)
const short = (x: number): string =>
  x >= 1e6 ? `${x / 1e6}M` : x >= 1e3 ? `${x / 1e3}k` : String(Number(x.toPrecision(3)))
type Words = { at?: 'start' | 'middle' | 'end'; kind?: string }
const text = (x: number, y: number, words: string, { at = 'start', kind = '' }: Words = {}): string =>
  `<text x="${x.toFixed(1)}" y="${y.toFixed(1)}" text-anchor="${at}" class="${kind}">${escaped(words)}</text>`
const rect = (x: number, y: number, width: number, height: number, kind: string): string =>
  `<rect x="${x.toFixed(1)}" y="${y.toFixed(1)}" width="${width.toFixed(1)}" height="${Math.max(height, 0).toFixed(1)}" class="${kind}" stroke="none"/>`
const stroke = (x1: number, y1: number, x2: number, y2: number, kind: string): string =>
  `<line x1="${x1.toFixed(1)}" y1="${y1.toFixed(1)}" x2="${x2.toFixed(1)}" y2="${y2.toFixed(1)}" class="${kind}"/>`

function page(width: number, height: number, title: string, parts: readonly string[]): string {
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" role="img" aria-label="${escaped(title)}">\n<style>${STYLE}\n</style>\n${rect(0, 0, width, height, 'ground')}\n${text(16, 24, title, { kind: 'title' })}\n${parts.join('\n')}\n</svg>\n`
}
const legend = (names: readonly (readonly [name: string, colour: number])[], y: number): string[] =>
  names.flatMap(([name, colour], i) => [rect(16 + i * 130, y - 9, 10, 10, `c${colour}`), text(30 + i * 130, y, name)])

const COLOURS: Readonly<Record<string, number>> = { floor: 0, synchronous: 1, 'by hand': 2, 'pg-quorum': 3 }
const contendersOf = (results: readonly Result[]): string[] =>
  Object.keys(COLOURS).filter((name) => results.some((r) => r.contender === name))
const groupsOf = (results: readonly Result[]): string[] => [
  ...new Set(results.map((r) => `${r.workload} ${r.workers}`)),
]
const find = (results: readonly Result[], group: string, contender: string): Result | undefined =>
  results.find((r) => `${r.workload} ${r.workers}` === group && r.contender === contender)

/** A group of bars for each workload and number of callers. */
function bars(
  title: string,
  results: readonly Result[],
  names: readonly string[],
  of: (r: Result) => number,
  most: number,
  note: string,
): string {
  const groups = groupsOf(results)
  const [width, left, top, bottom] = [40 + groups.length * (names.length * 22 + 14), 40, 60, 300]
  const y = (v: number): number => bottom - (Math.min(v, most) / most) * (bottom - top)
  const step = [0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25].find((x) => most / x <= 6) ?? 50
  const ticks = Array.from({ length: Math.floor(most / step) + 1 }, (_, i) => i * step)
  return page(width, 350, title, [
    ...legend(
      names.map((n) => [n, COLOURS[n]!] as const),
      44,
    ),
    text(width - 16, 44, note, { at: 'end', kind: 'quiet' }),
    ...ticks.flatMap((v) => [
      stroke(left, y(v), width - 8, y(v), v === 0 ? 'axis' : 'grid'),
      text(left - 6, y(v) + 4, short(v), { at: 'end', kind: 'quiet' }),
    ]),
    ...groups.flatMap((group, g) => {
      const from = left + 8 + g * (names.length * 22 + 14)
      const [workload, workers] = group.split(' ') as [string, string]
      return [
        ...names.flatMap((name, i) => {
          const r = find(results, group, name)
          if (!r) return []
          const v = of(r)
          return [
            rect(from + i * 22, y(v), 20, bottom - y(v), `c${COLOURS[name]}`),
            text(from + i * 22 + 10, y(v) - 3, v >= 10 ? v.toFixed(0) : v.toFixed(2), { at: 'middle', kind: 'small' }),
          ]
        }),
        text(from + (names.length * 22) / 2, bottom + 16, workload, { at: 'middle' }),
        text(from + (names.length * 22) / 2, bottom + 30, workers, { at: 'middle', kind: 'quiet' }),
      ]
    }),
  ])
}

export const throughput = (results: readonly Result[]): string =>
  bars(
    'Throughput as a ratio to plain pg on one server',
    results,
    contendersOf(results).filter((n) => n !== 'floor'),
    (r) => r.ratio,
    1.25,
    'below: workload and callers at once; higher is better',
  )
export function processor(results: readonly Result[]): string {
  const of = (r: Result): number => r.client_ms + r.servers_ms
  return bars(
    'Processor time per transaction, client and servers together, ms',
    results,
    contendersOf(results),
    of,
    Math.max(...results.map(of)),
    'below: workload and callers at once; lower is better',
  )
}

const lg = (v: number, least: number, most: number): number => Math.log(v / least) / Math.log(most / least)
/** Powers of ten from a to b, both reached. */
const tens = (a: number, b: number): number[] => {
  const [from, to] = [Math.floor(Math.log10(a)), Math.ceil(Math.log10(b))]
  return Array.from({ length: Math.max(to, from + 1) - from + 1 }, (_, i) => 10 ** (from + i))
}

/** From p50 (thick end) over p90 and p99 to the longest, on one scale of powers. */
export function latency(results: readonly Result[]): string {
  const [groups, names] = [groupsOf(results), contendersOf(results)]
  const ticks = tens(Math.min(...results.map((r) => r.p50_ms)), Math.max(...results.map((r) => r.max_ms)))
  const [half, row] = [430, names.length * 13 + 30]
  const rows = Math.ceil(groups.length / 2)
  const parts = groups.flatMap((group, g) => {
    const [left, top] = [16 + Math.floor(g / rows) * (half + 24), 74 + (g % rows) * row]
    const x = (ms: number): number => left + 4 + lg(ms, ticks[0]!, ticks.at(-1)!) * (half - 8)
    return [
      text(left, top - 5, group.replace(' ', ', callers: ')),
      ...ticks.flatMap((t) => [
        stroke(x(t), top, x(t), top + names.length * 13, 'grid'),
        text(x(t), top + names.length * 13 + 9, short(t), { at: 'middle', kind: 'small quiet' }),
      ]),
      ...names.flatMap((name, i) => {
        const r = find(results, group, name)
        if (!r) return []
        const [y, c] = [top + 7 + i * 13, `c${COLOURS[name]}`]
        return [
          stroke(x(r.p50_ms), y, x(r.max_ms), y, `${c} thin`),
          rect(x(r.p50_ms) - 3, y - 5, 6, 10, c),
          rect(x(r.p90_ms) - 2, y - 4, 4, 8, c),
          rect(x(r.p99_ms) - 1.5, y - 3, 3, 6, c),
          rect(x(r.max_ms) - 1, y - 3, 2, 6, c),
        ]
      }),
    ]
  })
  return page(2 * half + 56, 84 + rows * row, 'Latency, ms: p50, p90, p99 and the longest of all calls', [
    ...legend(
      names.map((n) => [n, COLOURS[n]!] as const),
      44,
    ),
    ...parts,
  ])
}

/** Small pictures, both axes in powers: a straight line is a power of what grows. */
export function growth(curves: readonly Curve[]): string {
  const [w, h] = [300, 220]
  const parts = curves.flatMap((curve, k) => {
    const [left, top] = [60 + (k % 3) * (w + 20), 66 + Math.floor(k / 3) * (h + 60)]
    const [right, bottom] = [left + w - 60, top + h - 50]
    const points = curve.series.flatMap((s) => s.points).filter(([x, y]) => x > 0 && y > 0)
    const [xs, ys] = [
      tens(Math.min(...points.map((p) => p[0])), Math.max(...points.map((p) => p[0]))),
      tens(Math.min(...points.map((p) => p[1])), Math.max(...points.map((p) => p[1]))),
    ]
    const x = (v: number): number => left + lg(v, xs[0]!, xs.at(-1)!) * (right - left)
    const y = (v: number): number => bottom - lg(v, ys[0]!, ys.at(-1)!) * (bottom - top)
    return [
      text(left - 40, top - 14, [curve.name, curve.unit].filter(Boolean).join(': ')),
      ...xs.flatMap((t) => [
        stroke(x(t), top, x(t), bottom, 'grid'),
        text(x(t), bottom + 13, short(t), { at: 'middle', kind: 'small quiet' }),
      ]),
      ...ys.flatMap((t) => [
        stroke(left, y(t), right, y(t), 'grid'),
        text(left - 5, y(t) + 3, short(t), { at: 'end', kind: 'small quiet' }),
      ]),
      text((left + right) / 2, bottom + 27, curve.grows, { at: 'middle', kind: 'quiet' }),
      ...curve.series.flatMap((s, i) => {
        const c = `c${3 - i}`
        return [
          `<polyline points="${s.points
            .filter((p) => p[1] > 0)
            .map((p) => `${x(p[0]).toFixed(1)},${y(p[1]).toFixed(1)}`)
            .join(' ')}" class="${c} line"/>`,
          ...s.points.filter((p) => p[1] > 0).map((p) => rect(x(p[0]) - 2.5, y(p[1]) - 2.5, 5, 5, c)),
          rect(left - 40, bottom + 33 + i * 12, 8, 8, c),
          text(
            left - 28,
            bottom + 41 + i * 12,
            `${s.name}: to the power of ${s.exponent.toFixed(2)}, at the end ${atTheEnd(s.points).toFixed(1)}`,
            { kind: 'small' },
          ),
        ]
      }),
    ]
  })
  return page(1000, 60 + Math.ceil(curves.length / 3) * (h + 60) + 10, 'What grows, and what it costs', parts)
}
