/** `resolve --dry-run`: what it says of a transaction that a dead client left is what `resolve` then does, and why. */
import { expect } from 'chai'
import { bank, child, cluster, settled, type TestCluster } from '../cluster.ts'
import { cli, flat } from '../command.ts'

describe('resolve', () => {
  let c: TestCluster
  before(async function () {
    this.timeout(60_000)
    c = await cluster()
    const pool = c.pool()
    await bank(pool)
    await settled(c.servers)
    await pool.end()
  })
  after(() => c.destroy())

  for (const [step, verdict, outcome] of [
    ['lead-committed', /would commit: it is committed on member \d/, 'committed'],
    [
      'accepted',
      /a ballot would commit: it is prepared on member \d and member \d|a ballot would roll back: its lead/,
      undefined,
    ],
  ] as const) {
    it(`left at ${step}: its locks, the verdict and why; then the same comes true`, async () => {
      const dead = child(step, {
        urls: c.urls,
        locks: ['accounts/1', 'accounts/2', '@run'],
        statements: ['UPDATE accounts SET balance = balance + 1 WHERE id = 1'],
      })
      await new Promise((r) => dead.once('exit', r))
      const dry = await cli(['resolve', '--dry-run'], c.urls)
      expect(flat(dry), dry.err)
        .match(/it locks @run, public.accounts \(2 stripes of rows\)/)
        .and.match(verdict)
      const done = await cli(['resolve'], c.urls)
      expect(done.out, done.err).match(
        new RegExp(`^ {2}${outcome ?? (flat(dry).includes('would commit') ? 'committed' : 'rolled back')}$`, 'm'),
      )
      await settled(c.servers)
    })
  }
})
