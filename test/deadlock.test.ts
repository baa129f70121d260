/**
 * Transactions in doubt that exclude each other (dangers.md, N23): whoever insists on committing what cannot have
 * been chosen waits for ever. Found by `npm run acme`.
 */
import { expect } from 'chai'
import pg from 'pg'
import { wire } from '../driver/pool/connect.ts'
import { choose, type Evidence } from '../driver/protocol/decision.ts'
import { OWNER } from '../driver/replica/replica.ts'
import { coverText, SQL } from '../driver/replica/statements.ts'
import { bank, cluster, drained, settled, type TestCluster } from './cluster.ts'

const NOTHING: Evidence = {
  member: 0,
  lead: null,
  write: null,
  committed: false,
  prepared: false,
  promised: 9,
  accepted: 0,
  decision: null,
  superseded: false,
  forgotten: false,
  has: true,
  owner_alive: false,
}
const PREPARED: Evidence = { ...NOTHING, prepared: true }
const accepted = (ballot: number, decision: 'commit' | 'abort'): Evidence => ({
  ...NOTHING,
  prepared: decision === 'commit',
  accepted: ballot,
  decision,
})
const SILENT = 9

describe('what a resolver must propose', () => {
  const cases: [
    what: string,
    promises: Evidence[],
    members: number,
    lead: number,
    choice: 'commit' | 'abort',
    untold?: true,
  ][] = [
    ['nothing anywhere', [NOTHING, NOTHING, NOTHING], 5, SILENT, 'abort'],
    [
      'one of three is prepared, the lead is silent: it may have committed',
      [PREPARED, NOTHING, NOTHING],
      5,
      SILENT,
      'commit',
    ],
    ['the same, but the lead has promised: it has not', [PREPARED, NOTHING, NOTHING], 5, 3, 'abort'],
    ['the same, but its owner never told it to', [PREPARED, NOTHING, NOTHING], 5, SILENT, 'abort', true],
    ['one of four: the rest is no majority', [PREPARED, NOTHING, NOTHING, NOTHING], 5, SILENT, 'abort'],
    [
      'three of five, the lead has promised: free, and nobody is in the way',
      [PREPARED, PREPARED, PREPARED, NOTHING, NOTHING],
      5,
      5,
      'commit',
    ],
    ['one of two, of three', [PREPARED, NOTHING], 3, SILENT, 'commit'],
    ['accepted by one of three at a ballot', [accepted(4, 'commit'), NOTHING, NOTHING], 5, 3, 'commit'],
    ['a ballot is not the lead’s affair', [accepted(4, 'commit'), NOTHING, NOTHING], 5, SILENT, 'commit', true],
    ['accepted by one, and four never will: free', [accepted(4, 'commit'), NOTHING, NOTHING, NOTHING], 5, 4, 'abort'],
    ['the higher ballot', [accepted(4, 'commit'), accepted(5, 'abort'), NOTHING], 5, SILENT, 'abort'],
    [
      'the higher one was not chosen, the lower may be',
      [accepted(4, 'commit'), accepted(4, 'commit'), accepted(5, 'abort'), accepted(4, 'commit')],
      5,
      SILENT,
      'commit',
    ],
  ]
  for (const [what, promises, members, lead, choice, untold] of cases) {
    it(`${what}: ${choice}`, () =>
      expect(
        choose(
          promises.map((e, i) => ({ ...e, member: i + 1, lead })),
          members,
          untold,
        ),
      ).to.equal(choice))
  }
})

describe('three in doubt, each prepared on one of three servers, each in the others’ way', () => {
  let it3: TestCluster
  before(async () => {
    it3 = await cluster()
  })
  after(() => it3.destroy())

  it('are ended by the next driver', async function () {
    this.timeout(30_000)
    const first = it3.pool()
    await bank(first, 3)
    await settled(it3.servers)
    await first.end()
    const { cluster: driver } = wire({ replicas: it3.urls })
    const { cluster: name } = await driver.replicas[0]!.hello()
    const sealed: { gid: string; body: string }[] = []
    for (const [i, url] of it3.urls.entries()) {
      const lead = new pg.Client(url)
      await lead.connect()
      await lead.query('BEGIN')
      await lead.query(coverText('infer'))
      const base = (await lead.query<{ r: unknown }>(SQL.base, [JSON.stringify([{ t: 'accounts', w: true }])])).rows[0]!
        .r
      await lead.query('UPDATE accounts SET balance = balance + 1')
      sealed.push(
        (
          await lead.query<{ r: { gid: string; body: string } }>(SQL.seal, [
            `quorum_${name}_1_dead${i}_1_`,
            JSON.stringify(base),
            true,
            true,
            2 ** 24,
            2,
            '500',
          ])
        ).rows[0]!.r,
      )
      await lead.end() // the lead is lost, and its owner with it
    }
    for (const [i, changeset] of sealed.entries()) {
      const session = await driver.replicas[(i + 1) % 3]!.open()
      expect(await session.accept(changeset, OWNER)).to.deep.equal({ answer: 'yes' })
      session.release()
    }
    await driver.close()
    const next = it3.pool()
    const writing = next.query('UPDATE accounts SET balance = balance + 10')
    await drained(it3.servers, 10_000)
    await writing
    await settled(it3.servers)
  })
})
