/**
 * One-shot reads as the dial says (docs/protocol.md, section 9): which statement is one, which replicas may answer
 * it, and what the answer was.
 */
import type pg from 'pg'
import { badInput, codeOf, leadLost, QuorumError } from '../errors.ts'
import { checkReads, type Reads as Mode } from '../protocol/dial.ts'
import type { LockRequest } from '../protocol/locks.ts'
import { Seen, stripesFrom } from '../protocol/seen.ts'
import type { LeadSession, Replica, Row } from '../replica/replica.ts'
import { isOutdated, isServersWord, namesNothing } from '../replica/sqlstate.ts'
import { SQL } from '../replica/statements.ts'
import { jitter, now_ms, sleep } from '../runtime.ts'
import { analyse, isLoaded, loadParser } from '../sql/analyse.ts'
import { readsOf } from '../sql/infer.ts'
import type { Cluster } from '../transaction/cluster.ts'
import { readRow } from '../transaction/read-row.ts'
import { readStrongly } from '../transaction/read.ts'
import { Freshness, readForSession, readFresh, readLagging } from '../transaction/weaker.ts'
import type { Config } from './arguments.ts'
import type { Wiring } from './connect.ts'
import { inPlainWords } from './lead.ts'
import { Readers, type Attempt, type Class, type Reader } from './readers.ts'

/** What a read was: in `result.quorum`. */
export interface Told {
  readonly replica: string
  readonly reads: Mode
  /** Everything acknowledged so long before it began is in it. */
  readonly staleness_ms?: number
  /** So many changesets were missing, or fewer. */
  readonly behind?: number
}
/**
 * Runs it strongly on a client, and names the member that it runs on as soon as it is known. requests: it is a
 * plain read of these.
 */
type OnLead = (config: Config, at: (lead: Replica) => void, requests?: readonly LockRequest[]) => Promise<unknown>
type Result = pg.QueryResult & { quorum?: Told }
const nobody = (): void => undefined
const told = (result: pg.QueryResult, quorum: Told): Result => Object.assign(result, { quorum })

const SNAPSHOT_TRIES = 5
const MOST_UNDONE = 10_000

/**
 * On a client's lead: the short way of a read of one row. undefined: it is none, or did not settle; then the longer
 * one is gone.
 */
export async function readShortly(
  cluster: Cluster,
  lead: LeadSession,
  requests: readonly LockRequest[],
  ask: (row: Row) => Promise<unknown>,
  alone: boolean,
): Promise<{ readonly result: unknown } | undefined> {
  const [only] = requests
  if (requests.length !== 1 || !only?.kv) return undefined
  try {
    return await readRow(cluster, lead, only, ask, alone)
  } catch (error) {
    const said = inPlainWords(error, lead.replica().name)
    if (said !== error) cluster.suspect(lead.replica(), error)
    // a lead that lags may not know a table yet that others have acknowledged; and what is prepared may be older
    // than the schema
    if (isServersWord(said) && (namesNothing(said.code ?? '') || isOutdated(said.code ?? ''))) return undefined
    throw said
  }
}

export class Reads {
  readonly #cluster: Cluster
  readonly #wiring: Wiring
  readonly #readers: Readers
  readonly #freshness = new Freshness()

  constructor(wiring: Wiring, max: number, onConnect: (client: pg.PoolClient) => void) {
    this.#cluster = wiring.cluster
    this.#wiring = wiring
    this.#readers = new Readers(wiring, max, onConnect)
    if (this.#cluster.dial.reads === 'session') this.#seen()
  }

  abandon = (replica: Replica): void => this.#readers.abandon(replica)
  end = (): Promise<void> => this.#readers.end()

  /** reads: what a config says, or nothing. */
  modeOf = (reads: unknown): Mode => (reads === undefined ? this.#cluster.dial.reads : checkReads(reads as Mode))

  query(config: Config, reads: Mode, onLead: OnLead): Promise<unknown> {
    if (reads !== 'strong') return this.#weaker(config, reads, onLead)
    const requests = this.#requestsOf(config)
    return requests ? this.#strongly(config, requests, onLead) : onLead(config, nobody)
  }

  async #weaker(config: Config, reads: Mode, onLead: OnLead): Promise<unknown> {
    if (!this.#isReady) {
      // who is the cluster; without a majority they are read unintroduced
      await this.#cluster.assemble().catch(() => undefined)
      await loadParser()
      // its connection learns them
      if (!this.#wiring.builtIns.names) await this.#anyone('weaker', () => Promise.resolve(true)).catch(() => undefined)
      this.#isReady = this.#wiring.builtIns.names !== undefined
    }
    const requests = this.#requestsOf(config)
    return requests ? this.#weakly(config, requests, reads, onLead) : onLead(config, nobody)
  }
  #isReady = false

  /** Of the last strong read. */
  #lead: Replica | undefined

  /** What a statement reads, if it does nothing but read tables. */
  #requestsOf({ text, values }: Config): readonly LockRequest[] | undefined {
    const builtIns = this.#wiring.builtIns.names
    if (typeof text !== 'string' || !builtIns || !isLoaded()) return undefined
    const [statement, another] = analyse(text)
    return statement && !another ? readsOf(statement, builtIns)?.(values) : undefined
  }

  /** On a client's lead, and after a while on other members as well. */
  #strongly(config: Config, requests: readonly LockRequest[], onLead: OnLead): Promise<unknown> {
    let lead: Replica | undefined
    const from = now_ms()
    const onClient: Attempt<unknown> = {
      at: () => lead,
      run: async () => {
        const result = await onLead(
          config,
          (replica) => {
            lead = this.#lead = replica
          },
          requests,
        )
        if (lead) this.#readers.took(lead, 'strong', now_ms() - from)
        return told(result as Result, { replica: lead?.name ?? '', reads: 'strong' })
      },
    }
    const others = (but: Replica | undefined): Attempt<unknown>[] =>
      this.#cluster.replicas
        .filter((r) => r !== but && !this.#cluster.suspects.has(r))
        .map((replica): Attempt<unknown> => ({
          at: () => replica,
          run: () => this.#readers.on(replica, 'strong', (reader) => this.#strong(reader, replica, config, requests)),
        }))
    if (this.#readers.isLate(this.#lead, 'strong'))
      return this.#readers.hedged('strong', [...others(this.#lead), onClient])
    return this.#readers.hedged('strong', [onClient], () => others(lead))
  }

  async #strong(reader: Reader, replica: Replica, config: Config, requests: readonly LockRequest[]): Promise<Result> {
    return told(await readStrongly(this.#cluster, reader, requests, () => reader.query(config)), {
      replica: replica.name,
      reads: 'strong',
    })
  }

  async #weakly(config: Config, requests: readonly LockRequest[], reads: Mode, onLead: OnLead): Promise<unknown> {
    let failure: unknown
    const answer = await this.#anyone('weaker', (reader, replica) =>
      this.#on(reader, replica, config, requests, reads),
    ).catch((error: unknown) => {
      if (codeOf(error) !== '08006') throw error
      failure = error
    })
    if (answer) return answer
    if (typeof reads === 'object' && 'snapshot' in reads)
      throw failure ?? badInput('no replica has all of what this snapshot names: wait for catch-up, or take a new one')
    // Replicas that are left out of weaker reads (weight 0, known to be behind) take part in a strong one.
    return this.#strongly(config, requests, onLead).catch((error: unknown) => {
      throw failure ?? error
    })
  }

  #anyone<T>(of: Class, attempt: (reader: Reader, replica: Replica) => Promise<T | undefined>): Promise<T | undefined> {
    const [first, ...others] = this.#readers.order(this.#cluster.dial.recovering, of)
    const on = (replica: Replica): Attempt<T> => ({
      at: () => replica,
      run: () => this.#readers.on(replica, of, (reader) => attempt(reader, replica)),
    })
    return this.#readers.hedged(of, first ? [on(first)] : [], () => others.map(on))
  }

  async #on(
    reader: Reader,
    replica: Replica,
    config: Config,
    requests: readonly LockRequest[],
    reads: Mode,
  ): Promise<Result | undefined> {
    const work = (): Promise<Result> => reader.query(config)
    const { name } = replica
    if (reads === 'strong') return this.#strong(reader, replica, config, requests)
    if (reads === 'eventual')
      return told(await this.#prepared(reader, replica, config, requests), { replica: name, reads })
    if (reads === 'session') {
      const result = await readForSession(reader, requests, this.#seen(), work)
      return result && told(result, { replica: name, reads })
    }
    if ('maxStalenessMs' in reads) {
      const { result, age_ms } = await readFresh(
        this.#cluster,
        reader,
        requests,
        reads.maxStalenessMs,
        this.#freshness,
        work,
      )
      return told(result, { replica: name, reads, staleness_ms: Math.ceil(age_ms) })
    }
    if ('maxLag' in reads) {
      const answer = await readLagging(this.#cluster, reader, requests, reads.maxLag, work)
      return answer && told(answer.result, { replica: name, reads, behind: answer.behind })
    }
    return this.#earlier(reader, name, config, reads.snapshot)
  }

  /**
   * A row by its key is read by a prepared statement, as long as names mean here what they meant when it was made:
   * by this member's last pulse.
   */
  async #prepared(
    reader: Reader,
    replica: Replica,
    config: Config,
    requests: readonly LockRequest[],
  ): Promise<pg.QueryResult> {
    if (!reader.prepared.isOften(config)) return reader.query(config)
    const tables = requests.map((r) => r.t)
    const known = reader.byKey(tables, requests)
    const everything = typeof known === 'object' ? await known.catch(() => undefined) : known
    if (everything === undefined) return reader.query(config)
    const isSame = everything === this.#cluster.everything.get(replica)
    if (!isSame) reader.forget()
    const named = isSame ? reader.prepared.named(config, String(everything)) : config
    try {
      return await reader.query(named)
    } catch (error) {
      if (named === config || !isServersWord(error) || !isOutdated(error.code ?? '')) throw error
      return reader.query(config)
    }
  }

  /** An earlier state of this replica: in a transaction that is rolled back, what came since is taken back. */
  async #earlier(reader: Reader, name: string, config: Config, snapshot: string): Promise<Result | undefined> {
    const stripes = stripesFrom(snapshot)
    const wanted = new Seen()
    wanted.learn(stripes)
    for (let attempt = 1; ; attempt++) {
      try {
        await reader.query({ text: 'BEGIN ISOLATION LEVEL REPEATABLE READ READ WRITE' })
        const here = await reader.stripes([{ t: '*', w: false }])
        if (!wanted.coveredBy(here.stripes, here.granules)) return await reader.rollback().then(() => undefined)
        const { rows } = (await reader.query({
          text: SQL.beyond,
          values: [JSON.stringify(stripes), MOST_UNDONE],
        })) as pg.QueryResult<{ r: string[] }>
        const gids = rows[0]?.r ?? []
        if (gids.length === MOST_UNDONE)
          throw badInput(
            `at least ${MOST_UNDONE} changesets were committed since this snapshot: it is too old to be read again`,
          )
        await reader.query({ text: SQL.undo, values: [gids.reverse()] })
        const result = await reader.query(config)
        await reader.rollback()
        return told(result, { replica: name, reads: { snapshot }, behind: gids.length })
      } catch (error) {
        await reader.rollback()
        if (codeOf(error) === 'QB010')
          throw new QuorumError('the log no longer reaches back to this snapshot', {
            code: '22023',
            outcome: 'not-committed',
            retryable: false,
            cause: error,
          })
        if (codeOf(error) !== '40001' || attempt >= SNAPSHOT_TRIES) throw error
        await sleep(jitter(5 * attempt))
      }
    }
  }

  /** Names the state of one replica that has what the session has seen. */
  async snapshot(): Promise<string> {
    const seen = this.#seen()
    const token = await this.#anyone('weaker', async (reader) => {
      const { granules, stripes } = await reader.stripes([{ t: '*', w: false }])
      if (!seen.coveredBy(stripes, granules)) return undefined
      const state = new Seen()
      state.learn(stripes)
      return state.token()
    })
    if (token === undefined) throw leadLost('no replica that answers has what this session has seen')
    return token
  }

  get session(): Seen {
    return this.#seen()
  }

  #seen(): Seen {
    return (this.#cluster.seen ??= new Seen())
  }
}
