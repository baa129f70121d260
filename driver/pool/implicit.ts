/** Statements that are a transaction by themselves: one, those of a string, or a group's. */
import type pg from 'pg'
import { conflict, QuorumError } from '../errors.ts'
import { isConflict, isServersWord, namesNothing } from '../replica/sqlstate.ts'
import { coverText, SQL } from '../replica/statements.ts'
import { catchUp } from '../repair/catch-up.ts'
import { jitter, sleep, step } from '../runtime.ts'
import { analyse } from '../sql/analyse.ts'
import { inferAll, saysAll, type Inferred } from '../sql/infer.ts'
import { readStrongly } from '../transaction/read.ts'
import { Transaction } from '../transaction/transaction.ts'
import type { Asked, Desk } from './desk.ts'
import { Apart, PATIENCE_MS, resultsOf, tablesOf } from './group.ts'
import { isTimeout } from './lead.ts'
import type { SessionState } from './session.ts'

const TRIES = 6

/** What the dispatcher does with the transaction that is open. */
export interface Stage {
  start(transaction: Transaction): Promise<unknown>
  ended(): void
  said(error: unknown): unknown
  /** Statements wait for this first. */
  mop(work: Promise<unknown>): void
}

export class Implicit {
  readonly #desk: Desk
  readonly #session: SessionState
  readonly #stage: Stage

  constructor(desk: Desk, session: SessionState, stage: Stage) {
    this.#desk = desk
    this.#session = session
    this.#stage = stage
  }

  /**
   * A transaction around `work`. A conflict is retried unseen, from the second time on under guards; what is
   * streamed cannot be repeated, so it has guards from the start, and only one try. `work` begins it.
   */
  async run(
    inferred: Inferred,
    work: (transaction: Transaction, begin: () => Promise<unknown>) => Promise<unknown>,
    { relay, ...config }: Asked,
    text = BEGIN,
  ): Promise<unknown> {
    const { ask, lead, own, wiring } = this.#desk
    const { cluster } = wiring
    const asked = await this.#session.named(inferred.requests)
    let requests = asked
    if (relay) {
      relay.hold = true
      if (cluster.lagging.has(lead.replica())) await catchUp(cluster, lead.replica()).catch(() => undefined)
      requests = await this.#session.withBeneath(asked)
    }
    for (let attempt = 1; ; attempt++) {
      const transaction = new Transaction(cluster, lead, attempt > 1 || relay ? requests.map((r) => ({ ...r })) : [], {
        readOnly: inferred.readOnly,
        implicit: true,
      })
      try {
        if (inferred.readOnly) {
          const result = await readStrongly(
            cluster,
            lead,
            requests,
            () => ask({ ...config, ...(relay ? { relay } : {}) }),
            !relay,
          )
          relay?.tell()
          return result
        }
        await this.#stage.start(transaction)
        await step('began')
        transaction.also(requests.slice(asked.length))
        const result = await work(transaction, () => own(text))
        this.#stage.ended()
        const { command } = (await transaction.commit(() => own('COMMIT'))) as pg.QueryResult
        if (command !== 'COMMIT')
          throw conflict(`the lead ${lead.replica().name} answered COMMIT with ${command}: not committed`)
        relay?.tell()
        return result
      } catch (error) {
        this.#stage.ended()
        transaction.drop()
        // the statement still runs, and ROLLBACK waits behind it: its asker need not
        const unfinished = isTimeout(error)
        if (lead.status() === 'T' || lead.status() === 'E' || unfinished) {
          const rolledBack = own('ROLLBACK').catch(() => lead.destroy())
          if (unfinished) this.#stage.mop(rolledBack)
          else await rolledBack
        }
        const said = this.#stage.said(error)
        const lost =
          (said instanceof QuorumError && said.code === '40001' && said.retryable) ||
          (isServersWord(said) && isConflict(said.code ?? ''))
        // A lead that lags may not know a table yet that others have acknowledged.
        const unheard = attempt === 1 && isServersWord(said) && namesNothing(said.code ?? '')
        if (!(lost || unheard) || relay || attempt >= TRIES) throw said
        requests = [...asked, ...transaction.missed]
        await catchUp(cluster, lead.replica()).catch(() => 0)
        // Or it is prepared there, and about to be committed.
        if (unheard)
          await own(
            `BEGIN; SET LOCAL lock_timeout = ${cluster.limits.call_ms}; SELECT quorum.after_others(); COMMIT`,
          ).catch(() => own('ROLLBACK').catch(() => lead.destroy()))
        if (attempt > 1) await sleep(jitter(5 * attempt))
      }
    }
  }

  /**
   * A group's statements. First as if each that names a row changed it, as most do; if one did not, nobody knows
   * yet whether there is such a row, and all are repeated.
   */
  async together(configs: readonly Asked[]): Promise<unknown[]> {
    const { ask, flight, own, wiring } = this.#desk
    const statements = configs.flatMap((c) => analyse(c.text as string))
    const each = statements.map((s, i) => inferAll([s], configs[i]?.values, wiring.builtIns.names).requests)
    const requests = each.flat()
    let missed = false
    const work = async (transaction: Transaction, begin: () => Promise<unknown>): Promise<unknown> => {
      const named = await this.#session.named(requests)
      const asks = (asked: readonly Asked[]): (() => Promise<unknown>)[] => asked.map((config) => () => ask(config))
      const tables = await this.#session.tables(statements)
      if (!missed && (await transaction.byKey(tables, named))) {
        transaction.told(
          statements.every((s) => saysAll(s, wiring.builtIns.names)) ? this.#desk.lead.closed(tables) : undefined,
        )
        const prepared = asks(configs.map((config) => this.#desk.named(config, transaction.plainAt)))
        const results = resultsOf(
          (await flight([begin, ...transaction.inOneFlight(named, prepared, true)])).slice(1, -1),
        )
        missed = each.some((rows, i) => rows.length > 0 && (results[i] as pg.QueryResult).rowCount !== 1)
        if (missed) throw new Missed()
        return results
      }
      const answers = await flight([
        begin,
        () => own(SQL.plain, [tablesOf(statements)]),
        ...transaction.inOneFlight(named, asks(configs)),
      ])
      const [, plain] = inOrder(answers.splice(0, 3)) as [unknown, { rows: [{ r: boolean }] }]
      if (!plain.rows[0].r) {
        this.#session.unsure()
        throw new Apart()
      }
      return resultsOf(answers.slice(0, configs.length))
    }
    const run = (): Promise<unknown> =>
      this.run({ requests, readOnly: false }, work, { text: '' }, `${BEGIN}; SET LOCAL lock_timeout = ${PATIENCE_MS}`)
    return (await run().catch((error: unknown) =>
      error instanceof Missed ? run() : Promise.reject(error as Error),
    )) as unknown[]
  }
}

/** A statement of a group named a row and did not change it. */
class Missed extends Error {}

/** What a flight brought, or its first error. */
export function inOrder(answers: readonly PromiseSettledResult<unknown>[]): unknown[] {
  return answers.map((answer) => {
    if (answer.status === 'rejected') throw answer.reason
    return answer.value
  })
}

const BEGIN = `BEGIN; ${coverText('infer')}`
