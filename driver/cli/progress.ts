/**
 * How far a long command is: on a terminal one line that is drawn again, no wider than it; elsewhere a plain line
 * every few seconds.
 */
import { now_ms } from '../runtime.ts'

export interface Standing {
  readonly done: number
  readonly total: number
  /** What to say beside the bar. */ readonly words: string
}
export interface Meter {
  show(standing: Standing): void
  /** Clears the live line, so that what is said next stands alone. */ clear(): void
}

const DRAW_MS = 200
const PLAIN_MS = 2000
const BAR = 20

export function meter(
  name: string,
  out: { isTTY?: boolean; columns?: number; write(text: string): unknown } = process.stdout,
): Meter {
  let last_ms = now_ms()
  let drawn = false
  return {
    show({ done, total, words }) {
      if (now_ms() - last_ms < (out.isTTY ? DRAW_MS : PLAIN_MS)) return
      last_ms = now_ms()
      const part = total > 0 ? Math.min(1, done / total) : 1
      const percent = `${Math.floor(part * 100)} %`.padStart(5)
      if (!out.isTTY) return void out.write(`${name}:${percent}, ${words}\n`)
      const full = `${name} [${'#'.repeat(Math.round(part * BAR)).padEnd(BAR, '-')}]${percent}  ${words}`
      const short = `${percent}  ${words}`
      const width = (out.columns ?? 80) - 1
      out.write(`\r\u001b[K${(full.length <= width ? full : short).slice(0, width)}`)
      drawn = true
    },
    clear() {
      if (drawn) out.write('\r\u001b[K')
      drawn = false
    },
  }
}
