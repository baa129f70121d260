/** A few runs of the property test (npm run test:property for many), and that it would see a capture that fails. */
import { expect } from 'chai'
import { cluster, failure, type TestCluster } from './cluster.ts'
import { property } from './property/run.ts'
import { ask } from './servers.ts'

describe('random schemas and statements', function () {
  this.timeout(60_000)
  let c: TestCluster
  beforeEach(async () => {
    c = await cluster()
  })
  afterEach(() => c.destroy())

  it('the replicas are equal afterwards, or it was refused before anything was prepared', async () => {
    const counts = await property(c, c.pool(), { runs: 5 })
    expect(counts.done).to.be.greaterThan(20)
  })

  it('control: a table whose inserts are not captured is found', async () => {
    const sabotage = async (ns: string): Promise<void> => {
      for (const s of c.servers)
        await ask(
          s,
          `DO $$ BEGIN IF to_regclass('${ns}.t0') IS NOT NULL THEN ALTER TABLE ${ns}.t0 DISABLE TRIGGER quorum_insert; END IF; END $$`,
        )
    }
    const error = await failure(property(c, c.pool(), { runs: 100, seed: 5, sabotage }))
    expect(String((error.cause as Error | undefined)?.message ?? error.message)).to.match(
      /by plain text|by checksum|found here differ/,
    )
  })
})
