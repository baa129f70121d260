/**
 * The simulated replica against the real one, fact by fact: a simulator that agrees only with itself proves
 * nothing.
 */
import { expect } from 'chai'
import { cluster, type TestCluster } from './cluster.ts'
import { Notes, type Harness } from './conformance/harness.ts'
import { real } from './conformance/real.ts'
import { SCENARIOS } from './conformance/scenarios.ts'
import { simulated } from './conformance/simulated.ts'
import { State } from './sim/state.ts'

async function notes(on: (scenario: (h: Harness) => Promise<void>) => Promise<void>, name: string): Promise<string[]> {
  const n = new Notes()
  await on((h) => SCENARIOS[name]!(h, n))
  return n.lines
}

describe('the simulated replica does what the real one does', () => {
  let c: TestCluster
  before(async () => {
    c = await cluster()
    const pool = c.pool()
    await pool.query('CREATE TABLE lists (k text PRIMARY KEY, v text NOT NULL)')
    await pool.query('CREATE TABLE once (k text PRIMARY KEY, v text NOT NULL UNIQUE)')
    await pool.end()
  })
  after(() => c.destroy())

  for (const name of Object.keys(SCENARIOS)) {
    it(name, async () => {
      const there = await notes((s) => real(c, s), name)
      expect(await notes(simulated, name)).to.deep.equal(there)
    })
  }

  it('control: a simulated replica that forgets read marks is told apart', async () => {
    const there = await notes((s) => real(c, s), 'bases and read marks')
    const { against } = State.prototype
    State.prototype.against = function (base) {
      return against.call(
        this,
        base.map((e) => ({ ...e, w: false })),
      )
    }
    try {
      expect(await notes(simulated, 'bases and read marks')).to.not.deep.equal(there)
    } finally {
      State.prototype.against = against
    }
  })
})
