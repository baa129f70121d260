// verify in small: equal is equal, a changed row, a wrong chain and a missing trigger are named, a row is put
// right. All of it: test/cli/verify.test.ts.
import { expect } from 'chai'
import { mend } from '../driver/repair/mend.ts'
import { chosen, elements, judge } from '../driver/repair/verdict.ts'
import { verify, type Report } from '../driver/repair/verify.ts'
import { Witness } from '../driver/replica/witness.ts'
import { bank, cluster, settled, type TestCluster } from './cluster.ts'
import { ask } from './servers.ts'

describe('verify', () => {
  let c: TestCluster
  before(async () => {
    c = await cluster()
    await bank(c.pool())
    await settled(c.servers)
  })
  after(() => c.destroy())
  const looking = async <T>(work: (w: Witness[]) => Promise<T>): Promise<T> => {
    const witnesses = c.urls.map((connectionString, i) => new Witness({ connectionString }, i))
    try {
      return await work(witnesses)
    } finally {
      await Promise.all(witnesses.map((w) => w.close()))
    }
  }
  const look = (): Promise<Report> => looking((w) => verify(w))

  it('equal replicas are equal', async () => {
    expect(await look()).containSubset({
      same: true,
      findings: [],
      rows: 10,
      tables: [{ table: 'public.accounts', differences: 0 }],
    })
  })

  it('names a row, a chain and a trigger with their replica; the row is put right from the majority, the others stay', async () => {
    const [third, name] = [c.servers[2] ?? expect.fail(), `127.0.0.1:${c.servers[2]?.port}`]
    await ask(
      third,
      "BEGIN; SET LOCAL quorum.bypass = 'on'; UPDATE accounts SET balance = 7 WHERE id = 5; COMMIT; DROP TRIGGER quorum_insert ON accounts; UPDATE quorum.stripe SET chain = 1 WHERE t = 'public.accounts' AND n = quorum.stripe_of('{6}')",
    )
    const report = await look()
    expect(report.findings.map((f) => [f.kind, f.key, f.replicas]).sort()).deep.equal([
      ['chain', undefined, [name]],
      ['row', 'id=5', [name]],
      ['trigger', undefined, [name]],
    ])
    expect(report.findings.find((f) => f.kind === 'row')?.columns).containSubset([
      { column: 'balance', voices: [{ text: '1000' }, { text: '7', on: [name] }] },
    ])
    expect(
      await looking(async (w) => mend(w, report.findings.find((f) => f.kind === 'row') ?? expect.fail(), 'a test')),
    ).containSubset([{ before: '(5,7)', after: '(5,1000)', error: null }])
    expect((await look()).findings.map((f) => f.kind).sort()).deep.equal(['chain', 'trigger'])
    expect(await ask(third, 'SELECT t, key, before, after, by FROM quorum.repair')).deep.equal([
      { t: 'public.accounts', key: ['5'], before: '(5,7)', after: '(5,1000)', by: 'a test' },
    ])
  })

  it('a majority is one of all members, silent ones included', () => {
    const says = (...texts: (string | null)[]): Map<string, string | null> =>
      new Map(texts.map((t, i) => [`r${i + 1}`, t]))
    expect(judge('row', 't', says('a', 'a', 'a'), 3)).equal(undefined)
    expect(judge('row', 't', says('a', 'b', 'a'), 3)).containSubset({ replicas: ['r2'], says: 'is another one' })
    expect(judge('row', 't', says('a', null), 3)).containSubset({
      replicas: [],
      says: 'differs, and no majority agrees on it',
    })
    expect(judge('row', 't', says('a', 'a', 'b'), 5)).containSubset({ replicas: [] })
    expect(judge('row', 't', says(null, 'a', null), 3)).containSubset({ replicas: ['r2'], says: 'is there only' })
    expect(chosen([{ text: 'a', on: ['r1', 'r2'] }], 4)).equal(undefined)
    expect([elements('{42}'), elements('{a,"b, \\"c\\" \\\\"}'), elements('{""}')]).deep.equal([
      ['42'],
      ['a', 'b, "c" \\'],
      [''],
    ])
  })
})
