/**
 * What a client process did, line by line, on a file that outlives its kill -9: the invocation is written before
 * anything is sent, the completion once it is known. An invocation without a completion may have happened or not.
 * The parent makes the history of these files.
 */
import { openSync, readFileSync, readdirSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import type { Mop, Transaction } from '../checker/history.ts'

/** CLOCK_MONOTONIC in ms: one clock for all processes of the machine. */
export const now_ms = (): number => Number(process.hrtime.bigint() / 1000n) / 1000

export interface Move {
  readonly from: number
  readonly to: number
  readonly amount: number
}
export type Ending = 'ok' | 'fail' | 'info'
export type Line =
  | { e: 'invoke'; id: number; p: string; t: number; how: string; m: readonly Mop[]; move?: Move }
  | {
      e: 'end'
      id: number
      t: number
      y: Ending
      m?: readonly Mop[]
      code?: string
      text?: string
      gid?: string
      untyped?: boolean
    }
  | { e: 'asked'; id: number; t: number; gid: string; says: string }
  | { e: 'total'; p: string; t: number; end: number; total: number; how: string }
  /** An error before anything was sent, or of a read that is not part of the history. */
  | { e: 'error'; t: number; code: string; text: string; untyped: boolean }
  /** Something that took longer than it ever should. */
  | { e: 'slow'; t: number; ms: number; how: string }

export class Journal {
  readonly #file: number

  constructor(path: string) {
    this.#file = openSync(path, 'a')
  }

  write(line: Line): void {
    writeSync(this.#file, `${JSON.stringify(line)}\n`)
  }
}

export interface Operation {
  readonly id: number
  readonly process: string
  readonly how: string
  readonly invoked: readonly Mop[]
  readonly move: Move | undefined
  readonly start: number
  end: number
  type: Ending
  mops: readonly Mop[]
  code: string
  text: string
  gid: string | undefined
  untyped: boolean
  /** What outcomeOf(gid) answered, in order. */
  readonly answers: string[]
}

export interface Story {
  readonly operations: readonly Operation[]
  readonly totals: { process: string; start: number; end: number; total: number; how: string }[]
  readonly errors: { code: string; text: string; untyped: boolean }[]
  readonly slow: { ms: number; how: string }[]
}

export function readJournals(folder: string): Story {
  const operations = new Map<number, Operation>()
  const story = { totals: [] as Story['totals'], errors: [] as Story['errors'], slow: [] as Story['slow'] }
  for (const name of readdirSync(folder)
    .filter((f) => f.endsWith('.jsonl'))
    .sort()) {
    for (const text of readFileSync(join(folder, name), 'utf8').split('\n')) {
      if (text === '' || !text.endsWith('}')) continue // the last line of a killed process may be torn
      const line = JSON.parse(text) as Line
      if (line.e === 'invoke') {
        operations.set(line.id, {
          id: line.id,
          process: line.p,
          how: line.how,
          invoked: line.m,
          move: line.move,
          start: line.t,
          end: Infinity,
          type: 'info',
          mops: line.m,
          code: 'killed',
          text: '',
          gid: undefined,
          untyped: false,
          answers: [],
        })
      } else if (line.e === 'end') {
        const op = operations.get(line.id)
        if (op)
          Object.assign(op, {
            end: line.t,
            type: line.y,
            mops: line.m ?? op.mops,
            code: line.code ?? '',
            text: line.text ?? '',
            gid: line.gid,
            untyped: line.untyped ?? false,
          })
      } else if (line.e === 'asked') operations.get(line.id)?.answers.push(line.says)
      else if (line.e === 'total')
        story.totals.push({ process: line.p, start: line.t, end: line.end, total: line.total, how: line.how })
      else if (line.e === 'error') story.errors.push(line)
      else story.slow.push(line)
    }
  }
  return { ...story, operations: [...operations.values()].sort((a, b) => a.start - b.start) }
}

/**
 * For the checker. What outcomeOf called not committed is a definite no; what it called committed stays open here,
 * because nobody knows what it read, and is checked against the final rows instead.
 */
export function historyOf(story: Story): Transaction[] {
  return story.operations.map((op) => {
    const type = op.type === 'info' && op.answers.includes('not-committed') ? 'fail' : op.type
    return {
      id: op.id,
      process: op.process,
      type,
      mops: op.mops,
      start: op.start,
      end: type === 'info' ? Infinity : op.end,
    }
  })
}
