/**
 * Commits per second while they happen, with the events marked. In a terminal one line that redraws itself; in a
 * pipe or a log file one plain line a second. An event gets a letter, which stands in the line at its moment.
 */
const BARS = '▁▂▃▄▅▆▇█'
const SAMPLE_MS = 500
const WIDTH = 52

export class Chart {
  readonly #count: () => number
  readonly #out: NodeJS.WriteStream
  readonly #began = performance.now()
  readonly #samples: (number | string)[] = []
  #before = 0
  #rate = 0
  #ticks = 0
  #events = 0
  #timer: NodeJS.Timeout

  /** count: how many commits there are by now. */
  constructor(count: () => number, out: NodeJS.WriteStream = process.stdout) {
    this.#count = count
    this.#out = out
    this.#timer = setInterval(() => this.#tick(), SAMPLE_MS)
  }

  /** Says it on a line of its own; with a letter when it is one of the events to be marked. */
  say(text: string, marked = false): void {
    const letter = marked ? String.fromCharCode(65 + this.#events++) : ' '
    if (marked) this.#samples.push(letter)
    this.#clear()
    this.#out.write(`${this.#clock()}  ${letter} ${text}\n`)
    this.#draw()
  }

  stop(): void {
    clearInterval(this.#timer)
    if (this.#out.isTTY) this.#out.write('\n')
  }

  #tick(): void {
    const now = this.#count()
    this.#rate = (now - this.#before) * (1000 / SAMPLE_MS)
    this.#before = now
    this.#samples.push(this.#rate)
    this.#ticks++
    if (this.#out.isTTY) return this.#draw()
    const last = this.#samples.filter((s) => typeof s === 'number').slice(-2)
    const second = Math.round(last.reduce((a, b) => a + b, 0) / last.length)
    if (this.#ticks % 2 === 0)
      this.#out.write(
        `${this.#clock()}    ${String(second).padStart(4)} commits/s ${'#'.repeat(Math.min(50, Math.round(second / 10)))}\n`,
      )
  }

  #draw(): void {
    if (!this.#out.isTTY) return
    const highest = Math.max(1, ...this.#samples.filter((s) => typeof s === 'number'))
    const line = this.#samples
      .slice(-WIDTH)
      .map((s) => (typeof s === 'string' ? s : s === 0 ? ' ' : BARS[Math.round((s / highest) * (BARS.length - 1))]))
      .join('')
    const text = `${this.#clock()}  ${line} ${Math.round(this.#rate)} commits/s`
    this.#clear()
    this.#out.write(text.slice(0, (this.#out.columns || 80) - 1))
  }

  #clear(): void {
    if (this.#out.isTTY) this.#out.write('\r\x1b[K')
  }

  #clock(): string {
    return `${((performance.now() - this.#began) / 1000).toFixed(1).padStart(5)} s`
  }
}
