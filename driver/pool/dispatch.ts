/**
 * What happens to each statement of a client, by its kind: it begins, works in or ends a transaction, is a
 * transaction by itself, or goes straight to the lead. The conductor (transaction/transaction.ts) is told; rows,
 * types and errors of the user's own statements are pg's, untouched.
 */
import type { QueryResult } from 'pg'
import { conflict, notSupported } from '../errors.ts'
import { intent, type LockRequest } from '../protocol/locks.ts'
import { isOutdated, isServersWord } from '../replica/sqlstate.ts'
import { SQL } from '../replica/statements.ts'
import { analyse } from '../sql/analyse.ts'
import { changesRows, inferAll, namesRow, saysAll } from '../sql/infer.ts'
import type { Statement } from '../sql/statement.ts'
import { Transaction } from '../transaction/transaction.ts'
import type { Asked, Desk } from './desk.ts'
import { Implicit, inOrder } from './implicit.ts'
import { inPlainWords } from './lead.ts'
import { runOutside } from './outside.ts'
import { SessionState } from './session.ts'
import { controls, parts } from './several.ts'

export class Dispatch {
  locks: readonly LockRequest[] = []
  #open: Transaction | undefined
  /**
   * Begun by AND CHAIN: its locks are taken at its first statement, since a failure must not look like the last
   * one's.
   */
  #chained: Transaction | undefined
  readonly #session: SessionState
  readonly #implicit: Implicit
  #mopping: Promise<unknown> | undefined
  readonly #desk: Desk

  constructor(desk: Desk) {
    this.#desk = desk
    this.#session = new SessionState((text, values) => desk.own(text, values))
    this.#implicit = new Implicit(desk, this.#session, {
      start: (transaction) => this.#start(transaction),
      ended: () => {
        this.#open = undefined
      },
      said: (error) => this.#said(error),
      mop: (work) => {
        this.#mopping = work.finally(() => (this.#mopping = undefined))
      },
    })
  }

  /** See SessionState. */
  get changes(): number {
    return this.#session.changes
  }
  get inTransaction(): boolean {
    return this.#open !== undefined || this.#chained !== undefined
  }

  mustReach(write: number): void {
    ;(this.#open ?? this.#chained)?.mustReach(write)
  }

  /** Lets go of what the open transaction holds; true if there was one. */
  drop(): boolean {
    const open = this.#open ?? this.#chained
    this.#open = this.#chained = undefined
    open?.drop()
    if (open) this.#session.unsure()
    return open !== undefined
  }

  async run(config: Asked): Promise<unknown> {
    await this.#mopping
    try {
      return await this.#read(config)
    } catch (error) {
      throw this.#said(error)
    } finally {
      this.#session.ran(
        typeof config.text === 'string' ? analyse(config.text) : [],
        this.inTransaction,
        this.#desk.wiring.builtIns.names,
      )
      if (this.#session.listens && !this.inTransaction)
        await this.#session.channels().then(
          (channels) => this.#desk.listen(channels),
          () => undefined,
        )
    }
  }

  async #read(config: Asked): Promise<unknown> {
    if (typeof config.text !== 'string') return this.#desk.ask(config)
    const { lead } = this.#desk
    const statements = await Promise.all(
      analyse(config.text).map(async (s): Promise<Statement> =>
        lead.status() !== 'E' && (await this.#session.isTemporary(s)) ? { ...s, kind: 'write', temporary: true } : s,
      ),
    )
    if (statements.length <= 1) return this.#one(statements[0], config)
    if (config.values && config.values.length > 0) return this.#desk.ask(config) // the server's own 42601
    return this.#several(statements, config)
  }

  /** Several one-shot writes as one transaction; each one's result. Apart: they are no group, or not all of them. */
  async together(configs: readonly Asked[]): Promise<unknown[]> {
    await this.#mopping
    return this.#implicit.together(configs)
  }

  async #several(statements: readonly Statement[], config: Asked): Promise<unknown> {
    if (config.relay && statements.some((s) => controls(s) || s.kind === 'ddl'))
      throw notSupported(
        'a Query object whose text is several statements with DDL or transaction control among them',
        'Pass the text itself, or one statement at a time.',
      )
    const results: unknown[] = []
    for (const part of parts(statements, this.inTransaction)) {
      if (!Array.isArray(part)) results.push(await this.#one(part, { ...config, text: part.text }))
      else if (part.every((s) => s.kind === 'session'))
        for (const s of part) results.push(await this.#one(s, { ...config, text: s.text }))
      else {
        const whole = { ...config, text: part.map((s) => s.text).join(';\n') }
        const answers = await this.#implicit.run(
          inferAll(part, undefined, this.#desk.wiring.builtIns.names),
          async (_transaction, begin) => {
            await begin()
            if (config.relay) return this.#work(part, whole)
            const each: unknown[] = []
            for (const s of part)
              each.push(
                await (s.kind === 'session'
                  ? this.#one(s, { ...config, text: s.text })
                  : this.#work([s], { ...config, text: s.text })),
              )
            return each
          },
          whole,
        )
        results.push(...(Array.isArray(answers) ? (answers as unknown[]) : [answers]))
      }
    }
    return results
  }

  async #one(statement: Statement | undefined, config: Asked): Promise<unknown> {
    const { ask, flight, lead } = this.#desk
    if (!statement) return ask(config)
    if (this.#chained && !['commit', 'rollback'].includes(statement.kind)) await this.#takeUp(this.#chained)
    switch (statement.kind) {
      case 'two-phase':
        throw notSupported(
          'PREPARE TRANSACTION, COMMIT PREPARED and ROLLBACK PREPARED are what pg-quorum itself commits with',
          'Use BEGIN … COMMIT; the commit is already atomic on a majority of the replicas.',
        )
      case 'outside':
        return this.inTransaction || config.relay || config.values?.length
          ? ask(config)
          : runOutside(this.#desk.wiring, lead.replica(), statement, this.#desk, (text) => this.#read({ text }))
      case 'begin': {
        if (this.inTransaction) return ask(config)
        const { cluster } = this.#desk.wiring
        const transaction = new Transaction(cluster, lead, await this.#session.named(this.locks), statement.begin)
        return this.#start(
          transaction,
          async () => inOrder(await flight([() => ask(config), () => transaction.began()]))[0],
        )
      }
      case 'commit':
      case 'rollback':
        return this.#end(statement, config)
      case 'savepoint': {
        const result = await ask(config)
        this.#open?.savepoint()
        // what it may write was set after the savepoint, perhaps
        if (this.#open && /^rollback/i.test(statement.text)) await this.#open.covered()
        return result
      }
      case 'session': {
        const resets = this.#open && lead.status() === 'T' && /^reset\s+all/i.test(statement.text)
        const result = await (resets ? this.#session.keeping(() => ask(config)) : ask(config))
        this.#session.saw(statement)
        if (resets) await this.#open?.covered()
        return result
      }
      case 'lock':
        if (this.#open && statement.lock && lead.status() === 'T') {
          const { tables, mode } = statement.lock
          await this.#open.declare(await this.#session.named(tables.map((t) => ({ t, w: mode === 'exclusive' }))))
        }
        return ask(config)
      case 'read':
      case 'write':
      case 'ddl':
      case 'unknown':
        return this.#open ? this.#work([statement], config) : this.#oneShot(statement, config)
      default:
        return statement.kind satisfies never
    }
  }

  async #end(statement: Statement, config: Asked): Promise<unknown> {
    const { ask, lead, own } = this.#desk
    const open = this.#open ?? this.#chained
    const untouched = this.#chained !== undefined
    if (!open) return ask(config)
    this.#open = this.#chained = undefined
    const plain = (): Promise<unknown> => ask(config)
    const result = await (
      statement.kind === 'commit' && !untouched ? open.commit(plain) : plain().finally(() => open.drop())
    ).catch(async (error: unknown) => {
      // after a COMMIT, whatever it said, there is no transaction
      if (lead.status() === 'T' || lead.status() === 'E') await own('ROLLBACK').catch(() => lead.destroy())
      throw error
    })
    // AND CHAIN: the server has begun it, with the same characteristics
    if (lead.status() === 'T') this.#chained = open.next()
    return result
  }

  async #takeUp(chained: Transaction): Promise<void> {
    this.#chained = undefined
    await this.#start(chained, () => chained.began()).catch(async (error: unknown) => {
      await this.#desk.own('ROLLBACK').catch(() => this.#desk.lead.destroy())
      throw error
    })
  }

  async #start(transaction: Transaction, begin: () => Promise<unknown> = () => Promise.resolve()): Promise<unknown> {
    await transaction.prepare()
    this.#open = transaction
    try {
      return await begin()
    } catch (error) {
      this.#open = undefined
      transaction.drop()
      throw error
    }
  }

  /** Statements inside the open transaction: one, or the text of a relay. begin: it is opened only now. */
  async #work(statements: readonly Statement[], config: Asked, begin?: () => Promise<unknown>): Promise<unknown> {
    const { ask, flight, lead, own } = this.#desk
    const transaction = this.#open
    const [statement] = statements
    const together =
      // these have to do with what comes when
      !config.relay && config.query_timeout === undefined && config.rows === undefined && config.portal === undefined
    if (begin && !together) await begin()
    if (!transaction || !statement || statements.every((s) => ['session', 'savepoint'].includes(s.kind)))
      return ask(config)
    if (lead.status() === 'E') return ask(config) // 25P02, in PostgreSQL's own words
    const ddl = statements.filter((s) => s.kind === 'ddl')
    const sets = statements.some((s) => s.sets)
    if (ddl.length === 0 && !sets) {
      const requests = await this.#session.named(
        inferAll(statements, config.values, this.#desk.wiring.builtIns.names).requests,
      )
      const tables = await this.#session.tables(statements)
      const byKey =
        together &&
        !begin &&
        statements.length === 1 &&
        changesRows(statement) &&
        (await transaction.byKey(tables, namesRow(statement) ? requests : []))
      this.#session.harmless = byKey
      transaction.told(
        statements.every((s) => saysAll(s, this.#desk.wiring.builtIns.names)) ? lead.closed(tables) : undefined,
      )
      if (byKey && namesRow(statement)) {
        const result = (await this.#often(transaction, config)) as QueryResult
        if (result.rowCount === 1) {
          transaction.changed(requests)
          return result
        } // or it is repeated, which does nothing either, with what its not finding a row rests on
      }
      const often =
        together &&
        !begin &&
        statements.length === 1 &&
        statement.kind === 'read' &&
        requests.length === 1 &&
        lead.closed(tables) !== undefined &&
        lead.byKey(tables, requests) !== undefined
      const sends = [() => transaction.touch(requests), () => (often ? this.#often(transaction, config) : ask(config))]
      const result = together
        ? inOrder(await flight(begin ? [begin, ...sends] : sends)).at(-1)
        : await sends[0]?.().then(sends[1])
      // The event trigger's word on a temporary table, which quorum.ddl() would have taken.
      if (statements.some((s) => s.temporary)) await own("SET LOCAL quorum.temporary = ''")
      return result
    }
    if (begin && together) await begin()
    transaction.told(undefined)
    await transaction.declareEverything()
    if (sets) await own(SQL.beforeSetval)
    const result = await ask(config)
    if (sets) await own(SQL.afterSetval)
    if (ddl.length > 0) await own(SQL.ddl, [statement.text])
    else if (statements.some((s) => s.temporary)) await own("SET LOCAL quorum.temporary = ''")
    return result
  }

  /**
   * By key, on tables that are known: prepared from the second time on. What an older schema may cause is no error
   * of the statement's, but a conflict with whoever changed it.
   */
  async #often(transaction: Transaction, config: Asked): Promise<unknown> {
    const { ask, lead, named } = this.#desk
    const prepared = named(config, transaction.plainAt)
    if (prepared === config) return ask(config)
    return ask(prepared).catch(async (error: unknown) => {
      if (
        !isServersWord(error) ||
        !isOutdated(error.code ?? '') ||
        (await lead
          .replica()
          .against([intent('*', transaction.plainAt)])
          .catch(() => 'same')) === 'same'
      )
        throw error
      lead.forget()
      throw conflict('the schema was changed by another transaction meanwhile', undefined, error)
    })
  }

  /** Whatever statement met it: a lost lead is said as such, in one place. */
  #said(error: unknown): unknown {
    const replica = this.#desk.lead.replica()
    const said = inPlainWords(error, replica.name)
    if (said !== error) this.#desk.wiring.cluster.suspect(replica, error)
    return said
  }

  async #oneShot(statement: Statement, config: Asked): Promise<unknown> {
    const inferred = inferAll([statement], config.values, this.#desk.wiring.builtIns.names)
    if (statement.inBlock || (inferred.readOnly && inferred.requests.length === 0)) return this.#desk.ask(config)
    if (config.relay && statement.kind === 'write' && /^\s*copy\b/i.test(statement.text) && !statement.copyFrom)
      throw notSupported(
        'COPY (INSERT, UPDATE or DELETE …) TO STDOUT outside a transaction: its end could not wait for the commit',
        'Put it between BEGIN and COMMIT.',
      )
    return this.#implicit.run(inferred, (_transaction, begin) => this.#work([statement], config, begin), config)
  }
}
