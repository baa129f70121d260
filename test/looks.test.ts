/**
 * Looks at the port (docs/protocol.md, section 5): orders that real servers give only by chance. The mutants that
 * name this file were seen to fail here.
 */
import { expect } from 'chai'
import pg from 'pg'
import { keyText } from '../driver/protocol/locks.ts'
import type { LeadSession, Look, Replica, Row } from '../driver/replica/replica.ts'
import { Cluster } from '../driver/transaction/cluster.ts'
import { readRow } from '../driver/transaction/read-row.ts'
import { cluster, type TestCluster } from './cluster.ts'

const LIMITS = { connect_ms: 100, call_ms: 100, lock_ms: 100, grace_ms: 100, pulse_ms: 100, changeset_bytes: 1e6 }
const soon = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, 2))

/**
 * Three members with one row each, whose looks are answered when the test says so, as things stood when they were
 * sent.
 */
class Member {
  version = 1
  life = 1
  asked: number[] = []
  held: (() => void)[] | undefined
  readonly replica: Replica
  constructor(index: number) {
    this.replica = {
      name: `r${index}`,
      index,
      looks: async (rows: readonly Row[]) => {
        this.asked.push(rows.length)
        const answer = {
          life: this.life,
          looks: rows.map((): Look => ({ n: 7, version: this.version, whole: 0, everything: 0, write: 2 })),
        }
        if (this.held) await new Promise<void>((resolve) => this.held?.push(resolve))
        return answer
      },
    } as unknown as Replica
  }
}
const scene = (): {
  members: [Member, Member, Member]
  read: (before?: () => void) => Promise<number | undefined>
  reads: () => number
} => {
  const members = [new Member(0), new Member(1), new Member(2)] as [Member, Member, Member]
  const c = new Cluster(() => members.map((m) => m.replica), LIMITS)
  const lead = {
    replica: () => members[0].replica,
    row: () => ({ t: 'public.t', key: '{1}', everything: 0 }),
    forget: () => undefined,
  } as unknown as LeadSession
  let reads = 0
  return {
    members,
    reads: () => reads,
    read: async (before) =>
      (
        await readRow(c, lead, { t: 't', w: false, kv: { id: '1' } }, async () => {
          reads++
          const seen = members[0].version
          before?.()
          await soon()
          return seen
        })
      )?.result,
  }
}

describe('looks', () => {
  it('a lead that was seen to have it reads once, while the others are looked at; else twice', async () => {
    const { read, reads } = scene()
    expect([await read(), reads(), await read(), reads()]).to.deep.equal([1, 2, 1, 3])
  })

  it('a lead that gets the newest write after it has read, reads again', async () => {
    const { members, read } = scene()
    await read()
    members[1].held = []
    members[0].held = []
    members[1].version = 2
    const answer = read(() => {
      members[0].version = 2
    })
    await soon()
    for (const m of members) {
      m.held?.forEach((go) => go())
      m.held = undefined
    }
    expect(await answer).to.equal(2)
  })

  it('a lead that is behind does not answer', async () => {
    const { members, read } = scene()
    await read()
    members[1].version = 2
    expect(await read()).to.equal(undefined)
  })

  it('reads that wait share one look; one that begins while a look is under way waits for the next', async () => {
    const {
      members: [lead, other],
      read,
    } = scene()
    await read()
    lead.asked = []
    other.asked = []
    other.held = []
    const first = [read(), read(), read()]
    await soon()
    other.version = 2 // acknowledged by others before the next read begins
    const next = read()
    await soon()
    for (const go of other.held.splice(0)) go()
    other.held = undefined
    expect(await Promise.all(first)).to.deep.equal([1, 1, 1])
    expect(await next, 'the first look did not know it yet').to.equal(undefined)
    expect(other.asked).to.deep.equal([3, 1])
  })

  it('a lead that has crashed is believed nothing', async () => {
    const {
      members: [lead, other],
      read,
      reads,
    } = scene()
    other.version = lead.version = 2
    await read()
    const before = reads()
    lead.version = 1 // what it had brought over without waiting for its disk
    const answer = read(() => {
      lead.life = 2
      lead.version = 2 // and is caught up before it is looked at
    })
    expect([await answer, reads() - before]).to.deep.equal([2, 2])
  })

  describe('on real servers', () => {
    let c: TestCluster
    before(async function () {
      this.timeout(60_000)
      c = await cluster()
    })
    after(() => c.destroy())

    it('keys are written as PostgreSQL writes them', async () => {
      const client = new pg.Client(c.urls[0])
      await client.connect()
      const texts = [
        '',
        'a',
        'NULL',
        'null',
        'nullx',
        'a b',
        'a,b',
        '{',
        '}',
        '"',
        '\\',
        'é',
        '\u00a0',
        '\u2028',
        'a\nb',
        '\t',
        '\v',
        "'",
        'ſ',
        'x/y@z.de',
        '😀',
        '1',
      ]
      const keys: [type: string, value: string][] = [
        ...texts.map((t): [string, string] => ['text', t]),
        ['integer', '0'],
        ['integer', '-5'],
        ['bigint', '9007199254740993'],
        ['smallint', '7'],
        ['uuid', '0b1e4ef2-6b6f-4b1c-8f3f-0123456789ab'],
      ]
      for (const [type, value] of keys) {
        const { rows } = await client.query<{ k: string }>(`SELECT ARRAY[$1::${type}::text, 'x']::text[]::text AS k`, [
          value,
        ])
        expect(keyText([type, 'text'], [value, 'x']), `${type} ${JSON.stringify(value)}`).to.equal(rows[0]?.k)
      }
      for (const [type, value] of [
        ['integer', '05'],
        ['integer', '-0'],
        ['integer', ' 5'],
        ['numeric', '1'],
        ['uuid', '0B1E4EF2-6B6F-4B1C-8F3F-0123456789AB'],
        ['text', 'a\0'],
        ['character(3)', 'a'],
      ])
        expect(keyText([type!], [value!])).to.equal(undefined)
      await client.end()
    })

    it('a row is found under its stripe, whatever its key is', async () => {
      const pool = c.pool({ max: 1 })
      await pool.query(
        "CREATE TABLE odd (a text, n numeric, v int, PRIMARY KEY (a, n)); CREATE TYPE mood AS ENUM ('glad'); CREATE TABLE moods (m mood PRIMARY KEY, v int)",
      )
      await pool.query("INSERT INTO odd VALUES ('x y', 1.50, 1), ('NULL', 2, 2)")
      await pool.query("INSERT INTO moods VALUES ('glad', 3)")
      const other = c.pool({ max: 1, write: { prefer: c.urls[1]!.replace(/^.*@/, '').replace(/\?.*$/, '') } })
      for (let i = 1; i <= 5; i++) {
        await other.query("UPDATE odd SET v = v + 10 WHERE a = 'x y' AND n = 1.5")
        await other.query("UPDATE odd SET v = v + 10 WHERE a = 'NULL' AND n = 2")
        await other.query("UPDATE moods SET v = v + 10 WHERE m = 'glad'")
        const read = async (text: string, values: unknown[]): Promise<number> =>
          (await pool.query<{ v: number }>(text, values)).rows[0]?.v ?? NaN
        expect([
          await read('SELECT v FROM odd WHERE a = $1 AND n = $2', ['x y', '1.500']),
          await read('SELECT v FROM odd WHERE a = $1 AND n = $2', ['NULL', 2]),
          await read('SELECT v FROM moods WHERE m = $1', ['glad']),
        ]).to.deep.equal([10 * i + 1, 10 * i + 2, 10 * i + 3])
      }
      await Promise.all([pool.end(), other.end()])
    })
  })
})
