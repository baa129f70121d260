/**
 * `npm run acme` in small: green when all is well, red when it is lied to. The long runs are not part of `npm
 * test`.
 */
import { expect } from 'chai'
import type { Figures } from './acme/report.ts'
import { run, Tidy, type Options } from './acme/run.ts'

const SMALL: Options = {
  seconds: 12,
  servers: 3,
  clients: 2,
  workers: 2,
  seed: 7,
  only: ['kill server', 'kill client', 'cut one off', 'reset'],
}

async function small(options: Partial<Options>): Promise<Figures> {
  const tidy = new Tidy()
  try {
    return await run({ ...SMALL, ...options }, tidy, () => undefined)
  } finally {
    await tidy.all()
  }
}

describe('acme, in small', function () {
  this.timeout(60_000)

  it('12 s of faults on three servers, one of them destroyed at the end: nothing lost, nothing differs, no anomaly', async () => {
    const figures = await small({})
    expect(
      figures.problems.filter((p) => !p.startsWith('note')),
      JSON.stringify(figures),
    ).to.deep.equal([])
    expect(figures.acknowledged_commits).to.be.greaterThan(5)
    expect(figures.faults).to.include.keys('two destroyed', 'PREPARE replies lost')
  })

  it('control: an acknowledged append is removed everywhere, and one server is changed behind the driver', async () => {
    const figures = await small({ seconds: 2, sabotage: ['append', 'row'] })
    expect(figures.lost, JSON.stringify(figures)).to.be.greaterThan(0)
    expect(figures.divergent, JSON.stringify(figures)).to.equal(1)
    expect(figures.passed).to.equal(false)
  })

  it('control: a client sells the answers of one stale server as the database’s', async () => {
    const figures = await small({ seconds: 4, sabotage: ['read'] })
    expect(figures.anomalies, JSON.stringify(figures)).to.be.greaterThan(0)
    expect(figures.passed).to.equal(false)
  })
})
