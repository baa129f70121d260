/** How long the last reads of one class on one replica took: what a second request rests on (readers.ts). */
const SAMPLES = 100
const FEWEST_SAMPLES = 20

export class Times {
  readonly #ms: number[] = []
  #next = 0
  add(ms: number): void {
    this.#ms[this.#next++ % SAMPLES] = ms
  }
  /** Of the last ones, looked at now and then. */
  get p95_ms(): number | undefined {
    if (this.#ms.length < FEWEST_SAMPLES) return undefined
    if (this.#next >= this.#again) {
      this.#again = this.#next + FEWEST_SAMPLES
      this.#p95_ms = [...this.#ms].sort((a, b) => a - b)[Math.floor(this.#ms.length * 0.95)]
    }
    return this.#p95_ms
  }
  #again = 0
  #p95_ms: number | undefined
}
