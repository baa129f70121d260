/**
 * Groups (docs/protocol.md, section 4): one-shot writes of one process that are asked while others are being
 * committed become one transaction, as group commit makes them one flush of a log. To the replicas it is a
 * transaction like any other, and its statements are one after another in it. What fails, or has to wait for a
 * lock, is taken out and runs by itself; the others go on without it.
 */
import type pg from 'pg'
import { QuorumError } from '../errors.ts'
import { isServersWord } from '../replica/sqlstate.ts'
import { turn } from '../runtime.ts'
import { analyse } from '../sql/analyse.ts'
import { inferAll } from '../sql/infer.ts'
import type { Statement } from '../sql/statement.ts'
import type { Config } from './arguments.ts'

/** How long one of them may wait for a lock; whoever holds it may itself wait for one of the others. */
export const PATIENCE_MS = 20
/** Statements in one group. */
const MOST = 256
/** For so many statements a table that is not plain is not tried again. */
const APART = 500

/** Not together: the statement at this place failed, or (no place) they must not share a transaction. */
export class Apart extends Error {
  readonly at: number | undefined
  constructor(at?: number, cause?: unknown) {
    super('these statements cannot be one transaction', { cause })
    this.at = at
  }
}

export const tablesOf = (statements: readonly Statement[]): string[] => [
  ...new Set(statements.flatMap((s) => s.tables.map((use) => use.table))),
]

export function resultsOf(answers: readonly PromiseSettledResult<unknown>[]): unknown[] {
  return answers.map((answer, at) => {
    if (answer.status === 'fulfilled') return answer.value
    const { reason } = answer as { reason: unknown }
    throw isServersWord(reason) && !['40001', '40P01'].includes(reason.code ?? '') ? new Apart(at, reason) : reason
  })
}

interface Waiting {
  readonly config: Config
  readonly tables: readonly string[]
  resolve(result: unknown): void
  reject(error: unknown): void
}

export class Groups {
  readonly #together: (configs: readonly Config[]) => Promise<unknown[]>
  readonly #alone: (config: Config) => Promise<unknown>
  readonly #left: () => void
  readonly #apart = new Map<string, number>()
  #waiting: Waiting[] = []
  #running = false

  /** left: nobody waits any more. */
  constructor(
    together: (configs: readonly Config[]) => Promise<unknown[]>,
    alone: (config: Config) => Promise<unknown>,
    left: () => void,
  ) {
    this.#together = together
    this.#alone = alone
    this.#left = left
  }

  /** Undefined: it is not for a group. Else its result. */
  query(config: Config, builtIns: ReadonlySet<string> | undefined): Promise<pg.QueryResult> | undefined {
    const tables = builtIns && writesOf(config, builtIns)
    if (!tables || tables.some((t) => this.#known(t))) return undefined
    return new Promise((resolve, reject) => {
      this.#waiting.push({ config, tables, resolve: resolve as Waiting['resolve'], reject })
      if (!this.#running) void this.#run()
    })
  }

  #known(table: string): boolean {
    const left = this.#apart.get(table)
    if (left === undefined) return false
    if (left === 0) this.#apart.delete(table)
    else this.#apart.set(table, left - 1)
    return true
  }

  async #run(): Promise<void> {
    this.#running = true
    while (this.#waiting.length > 0) {
      await this.#one(this.#waiting.splice(0, MOST))
      await turn() // those who were answered may ask again, and be in the next one
    }
    this.#running = false
    this.#left()
  }

  async #one(group: Waiting[]): Promise<void> {
    while (group.length > 0) {
      try {
        const results = await this.#together(group.map((w) => w.config))
        return group.forEach((w, i) => w.resolve(results[i]))
      } catch (error) {
        if (error instanceof QuorumError) return group.forEach((w) => w.reject(error))
        const at = error instanceof Apart ? error.at : undefined
        if (error instanceof Apart && at === undefined)
          for (const t of group.flatMap((w) => w.tables)) this.#apart.set(t, APART)
        // Where no place is known (what is checked at the end, the size of it all, a value that pg cannot send),
        // nobody can tell whose fault it is.
        for (const w of group.splice(at ?? 0, at === undefined ? group.length : 1))
          void this.#alone(w.config).then(w.resolve, w.reject)
      }
    }
  }
}

/**
 * The tables of a single statement that writes rows it names by key, or brings along; nothing else may be in a
 * group: it would hold up the others.
 */
function writesOf(config: Config, builtIns: ReadonlySet<string>): string[] | undefined {
  if (
    typeof config.text !== 'string' ||
    config.query_timeout !== undefined ||
    config.rows !== undefined ||
    config.portal !== undefined ||
    config.queryMode !== undefined
  )
    return undefined
  const statements = analyse(config.text)
  const [statement] = statements
  if (
    !statement ||
    statements.length > 1 ||
    statement.kind !== 'write' ||
    statement.tables.length === 0 ||
    statement.opaque ||
    statement.sets ||
    statement.temporary ||
    statement.copyFrom
  )
    return undefined
  if (
    !/^\s*(insert|update|delete)\b/i.test(statement.text) ||
    !statement.tables.every((use) => use.mode === 'write' && (use.key ?? use.insertOnly)) ||
    (/^\s*insert\b/i.test(statement.text) && /\bselect\b/i.test(statement.text))
  )
    return undefined
  if (inferAll([statement], config.values, builtIns).requests.some((r) => r.t === '*' || !r.kv)) return undefined
  return tablesOf([statement])
}
