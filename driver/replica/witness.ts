/**
 * One server as verify looks at it: a connection of its own for long looks, in snapshots and under pinned settings,
 * and one that can hold A meanwhile. Only `put` changes anything, for repair/mend.ts. Not the port of replica.ts:
 * nothing of the protocol asks this.
 */
import pg from 'pg'
import { sentenceOf } from '../errors.ts'
import { nameOf, watched } from './address.ts'
import { LOG } from './log-questions.ts'
import { FACTS, FAULTS, PINNED, PREPARED, RESIDUES, WITHOUT_CHANGESET } from './questions.ts'
import { isServersWord } from './sqlstate.ts'

export interface Said {
  readonly kind: string
  readonly object: string
  readonly says: string
}
export interface Granule {
  readonly t: string
  readonly n: number
  readonly w: boolean
}
/** How a table stands in a snapshot. versions: [n, version, chain] of its stripes; star: version of `*`. */
export interface Look {
  readonly pk: readonly string[]
  readonly blocks: number
  readonly columns: readonly string[]
  readonly versions: readonly (readonly [number, number, string])[]
  readonly star: string
}
/** Rows of a group: how many, and two independent sums over their hashes. */
export type Sums = readonly [group: number, count: string, a: string, b: string]
export interface RowText {
  readonly key: string
  readonly text: string
  readonly values: readonly (string | null)[]
}

const SECONDS_ms = 5000
/** For one look at a table or the log; a server that says nothing for so long is given up. */
const LONG_ms = 600_000
/** 8 MB of a table in a request, so that progress can be told and Ctrl-C is heard. */
const CHUNK = 1024

/** As text, the same for all types. A table without a primary key has its rows' own hashes for keys. */
const keyOf = (pk: readonly string[]): string =>
  pk.length === 0
    ? 'md5((x.*)::text)'
    : `ARRAY[${pk.map((c) => `(x.${pg.escapeIdentifier(c)})::text`).join(', ')}]::text`
const half = (from: number): string => `sum(('x' || substr(h, ${from}, 15))::bit(60)::bigint)::text`

export class Witness {
  readonly name: string
  readonly index: number
  member = 0
  /** Why it is asked no more. */
  lost: string | undefined
  readonly #config: pg.ClientConfig
  #eyes: Promise<pg.Client> | undefined
  #gate: Promise<pg.Client> | undefined

  constructor(config: pg.ClientConfig, index: number) {
    this.name = nameOf(config).split('/')[0] ?? ''
    this.index = index
    this.#config = config
  }

  async #connect(): Promise<pg.Client> {
    const client = new pg.Client({
      connectionTimeoutMillis: 3000,
      keepAlive: true,
      application_name: 'pg-quorum verify',
      ...watched(this.#config),
      query_timeout: SECONDS_ms,
    })
    client.on('error', () => undefined)
    await client.connect()
    await client.query(`SET ROLE quorum_txn; ${PINNED}`) // who sees all rows, whatever policies say
    return client
  }

  /** A connection that was lost is not made again: the snapshot that it had is gone. */
  async #on<R extends pg.QueryResultRow>(
    who: 'eyes' | 'gate',
    text: string,
    values: unknown[] = [],
    ms = SECONDS_ms,
  ): Promise<R[]> {
    try {
      const client = await (who === 'eyes' ? (this.#eyes ??= this.#connect()) : (this.#gate ??= this.#connect()))
      return (await client.query<R>({ text, values, query_timeout: ms } as pg.QueryConfig)).rows
    } catch (error) {
      if (!isServersWord(error)) this.lost = sentenceOf(error)
      throw error
    }
  }
  #see<R extends pg.QueryResultRow>(text: string, values: unknown[] = [], ms = SECONDS_ms): Promise<R[]> {
    return this.#on<R>('eyes', text, values, ms)
  }

  async hello(): Promise<void> {
    const [self] = await this.#see<{ member: number; building: boolean | null }>(
      'SELECT member, (to_jsonb(s)->>$1)::bool AS building FROM quorum.self s',
      ['building'],
    )
    if (!self) throw new Error('quorum.self is empty: this server does not know which member it is')
    if (self.building) throw new Error('is being built: see `pg-quorum clone`')
    this.member = self.member
  }

  async versions(): Promise<[string, number, number, string][]> {
    return (
      (
        await this.#see<{ r: [string, number, number, string][] }>(
          "SELECT coalesce(jsonb_agg(jsonb_build_array(t, n, version, chain::text)), '[]') AS r FROM quorum.stripe",
        )
      )[0]?.r ?? []
    )
  }

  /** What DDL extends: stood still before and after, nothing in between was DDL. */
  async star(): Promise<string> {
    return (
      (
        await this.#see<{ v: string }>("SELECT coalesce(max(version), 0)::text AS v FROM quorum.stripe WHERE t = '*'")
      )[0]?.v ?? '0'
    )
  }
  facts = (): Promise<Said[]> => this.#see<Said>(FACTS, [], LONG_ms)
  async faults(): Promise<Said[]> {
    const faults = await this.#see<Said>(FAULTS, [], LONG_ms)
    const [prepared] = await this.#see<{ gids: string[] }>(PREPARED)
    return [...faults, ...(await this.#see<Said>(WITHOUT_CHANGESET, [prepared?.gids]))]
  }
  residues = (): Promise<{ name: string; residue: string }[]> => this.#see(RESIDUES)

  async log(): Promise<Said[]> {
    await this.#see('BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY')
    try {
      const said: Said[] = []
      for (const question of LOG) said.push(...(await this.#see<Said>(question, [], LONG_ms)))
      return said
    } finally {
      await this.end()
    }
  }

  async tables(): Promise<{ t: string; rows: number }[]> {
    return this.#see(
      `
        SELECT k.t, greatest(c.reltuples, 0)::float8 AS rows
        FROM quorum.tracked k
        JOIN pg_class c ON c.oid = to_regclass(k.t)
        ORDER BY k.t COLLATE "C"`,
    )
  }

  async pk(t: string): Promise<string[] | undefined> {
    return (await this.#see<{ pk: string[] }>('SELECT pk FROM quorum.tracked WHERE t = $1', [t]))[0]?.pk
  }

  /**
   * Opens a snapshot. The lock comes first: a TRUNCATE in between would leave the snapshot an empty table.
   * undefined: no such table here.
   */
  async begin(t: string): Promise<Look | undefined> {
    await this.#see('BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY')
    await this.#see(`LOCK TABLE ${t} IN ACCESS SHARE MODE`)
    const [look] = await this.#see<{ r: Look }>(
      `
        SELECT
          jsonb_build_object(
            'pk', k.pk,
            'blocks', (
              SELECT max(pg_relation_size(r))
              FROM (
                SELECT to_regclass(k.t)
                UNION ALL
                SELECT relid FROM pg_partition_tree(to_regclass(k.t))) of_it(r))
              / current_setting('block_size')::int, -- the largest partition's: a range of blocks is one of each
            'columns', (
              SELECT jsonb_agg(attname ORDER BY attnum)
              FROM pg_attribute
              WHERE attrelid = to_regclass(k.t) AND attnum > 0 AND NOT attisdropped),
            'versions', (
              SELECT coalesce(jsonb_agg(jsonb_build_array(n, version, chain::text)), '[]')
              FROM quorum.stripe s
              WHERE s.t = k.t),
            'star', (
              SELECT coalesce(max(version), 0)::text
              FROM quorum.stripe s
              WHERE s.t = '*')) AS r
        FROM quorum.tracked k
        WHERE k.t = $1`,
      [t],
    )
    return look?.r
  }
  async end(): Promise<void> {
    if (this.lost === undefined) await this.#see('ROLLBACK')
  }

  /** Rows of the snapshot, summed by group: 'one' for them all, 'each' of the 1024, or some of these. */
  async sums(
    t: string,
    look: Look,
    groups: readonly number[] | 'one' | 'each',
    tell: (blocks: number) => void,
  ): Promise<Map<number, string>> {
    const total = new Map<number, [bigint, bigint, bigint]>()
    const some = typeof groups === 'string' ? '' : `AND ${stripe(look.pk)} = ANY ($3::int[])`
    for (let from = 0; from < look.blocks; from += CHUNK) {
      const values: unknown[] = [`(${from},0)`, `(${from + CHUNK},0)`]
      const rows = await this.#see<{ s: Sums }>(
        `
          SELECT json_build_array(n, count(*)::text, ${half(1)}, ${half(17)}) AS s
          FROM (
            SELECT ${groups === 'one' ? '0' : stripe(look.pk)} AS n, md5((x.*)::text) AS h
            FROM ${t} x
            WHERE x.ctid >= $1::tid AND x.ctid < $2::tid ${some}
            OFFSET 0) y
          GROUP BY n`,
        typeof groups === 'string' ? values : [...values, groups],
        LONG_ms,
      )
      for (const {
        s: [n, count, a, b],
      } of rows) {
        const was = total.get(n) ?? [0n, 0n, 0n]
        total.set(n, [was[0] + BigInt(count), was[1] + BigInt(a), was[2] + BigInt(b)])
      }
      tell(Math.min(CHUNK, look.blocks - from))
    }
    return new Map([...total].map(([n, sums]) => [n, sums.join(':')]))
  }

  /** Each row of some groups: its key and the hash of its text, with its group. */
  async rows(t: string, look: Look, groups: readonly number[]): Promise<Map<string, [number, string]>> {
    const rows = await this.#see<{ key: string; n: number; h: string }>(
      `
        SELECT key, quorum.stripe_of(key) AS n, string_agg(h || '*' || c, ',' ORDER BY h COLLATE "C") AS h
        FROM (
          SELECT ${keyOf(look.pk)} AS key, md5((x.*)::text) AS h, count(*) AS c
          FROM ${t} x
          WHERE ${stripe(look.pk)} = ANY ($1::int[])
          GROUP BY 1, 2) y
        GROUP BY key`,
      [groups],
      LONG_ms,
    )
    return new Map(rows.map((r) => [r.key, [r.n, r.h]]))
  }

  async texts(t: string, look: Look, keys: readonly string[]): Promise<RowText[]> {
    const values = look.columns.map((c) => `(x.${pg.escapeIdentifier(c)})::text`).join(', ')
    return this.#see<{ key: string; text: string; values: (string | null)[] }>(
      `
        SELECT ${keyOf(look.pk)} AS key, (x.*)::text AS text, ARRAY[${values}]::text[] AS values
        FROM ${t} x
        WHERE ${keyOf(look.pk)} = ANY ($1::text[])`,
      [keys],
      LONG_ms,
    )
  }

  /**
   * Opens a transaction on the second connection, and takes A in it. false: somebody else has it for longer than
   * the patience.
   */
  async hold(granules: readonly Granule[], patience_ms: number): Promise<{ free: boolean; doubt: string[] }> {
    await this.#on('gate', 'BEGIN')
    const [row] = await this.#on<{ r: { free: boolean; doubt: { gid: string }[] } }>(
      'gate',
      'SELECT quorum.observe($1::jsonb, $2) AS r',
      [JSON.stringify(granules), patience_ms],
    )
    return { free: row?.r.free ?? false, doubt: row?.r.doubt.map((d) => d.gid) ?? [] }
  }
  async letGo(commit = false): Promise<void> {
    if (this.lost === undefined) await this.#on('gate', commit ? 'COMMIT' : 'ROLLBACK')
  }
  /** The same, exclusive. */
  async seize(granules: readonly Granule[], patience_ms: number): Promise<void> {
    await this.#on('gate', 'BEGIN')
    await this.#on('gate', `SET LOCAL lock_timeout = ${patience_ms}`)
    await this.#on('gate', 'SELECT quorum.take($1::jsonb)', [JSON.stringify(granules)])
  }

  /** In the transaction that holds A of its stripe: where the stripe stands, and the row. */
  async stand(t: string, n: number, key: readonly string[]): Promise<{ at: string; rows: string[] }> {
    const { same } = await this.#columns(t)
    const [row] = await this.#on<{ at: string; rows: string[] }>(
      'gate',
      `
        SELECT
          (
            SELECT concat_ws(':', count(*), sum(version), sum(chain::numeric))
            FROM quorum.stripe s
            WHERE (s.t = $1 AND s.n = $2) OR s.t = '*') AS at,
          ARRAY(SELECT (x.*)::text FROM ${t} x WHERE ${same('$3')}) AS rows`,
      [t, n, key],
    )
    return row ?? { at: '', rows: [] }
  }

  /**
   * In the transaction that holds A exclusively: makes the row what it should be, round the triggers, and writes
   * down that it did.
   */
  async put(t: string, key: readonly string[], before: string | null, after: string | null, by: string): Promise<void> {
    const { same, names } = await this.#columns(t)
    const run = (text: string, values: unknown[] = []): Promise<{ text?: string }[]> => this.#on('gate', text, values)
    await run("SET LOCAL quorum.bypass = 'on'")
    // the cascades and checks of this row were done where it was written
    await run('SET LOCAL session_replication_role = replica')
    await run('SET LOCAL synchronous_commit = on')
    await run(`DELETE FROM ${t} x WHERE ${same('$1')}`, [key])
    if (after !== null) {
      const [put] = await run(
        `
          INSERT INTO ${t} AS x (${names.join(', ')})
          OVERRIDING SYSTEM VALUE
          SELECT ${names.map((c) => `(i.r).${c}`).join(', ')}
          FROM (SELECT $1::${t} AS r OFFSET 0) i
          RETURNING (x.*)::text AS text`,
        [after],
      )
      if (put?.text !== after) throw new Error(`what ${this.name} stored is not what the others have`)
    }
    await run('INSERT INTO quorum.repair (t, key, before, after, by) VALUES ($1, $2, $3, $4, $5)', [
      t,
      key,
      before,
      after,
      by,
    ])
  }

  async #columns(t: string): Promise<{ same: (key: string) => string; names: string[] }> {
    const pk = (await this.pk(t)) ?? []
    const all = await this.#see<{ name: string; type: string; made: boolean }>(
      `
        SELECT attname AS name, format_type(atttypid, atttypmod) AS type, attgenerated <> '' AS made
        FROM pg_attribute
        WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped
        ORDER BY attnum`,
      [t],
    )
    return {
      same: (key) =>
        pk
          .map(
            (c, i) =>
              `x.${pg.escapeIdentifier(c)} = ` +
              `(${key}::text[])[${i + 1}]::${all.find((a) => a.name === c)?.type ?? 'text'}`,
          )
          .join(' AND '),
      names: all.filter((a) => !a.made).map((a) => pg.escapeIdentifier(a.name)),
    }
  }

  async close(): Promise<void> {
    await Promise.all([this.#eyes, this.#gate].map((c) => c?.then((client) => client.end()).catch(() => undefined)))
  }
}

function stripe(pk: readonly string[]): string {
  return `quorum.stripe_of(${keyOf(pk)})`
}
