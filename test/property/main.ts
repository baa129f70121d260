/** npm run test:property -- --runs 300 [--seed n]: the property test at length. */
import { parseArgs } from 'node:util'
import { cluster } from '../cluster.ts'
import { property } from './run.ts'

const { values } = parseArgs({ options: { runs: { type: 'string', default: '100' }, seed: { type: 'string' } } })
const c = await cluster()
try {
  const counts = await property(c, c.pool(), { runs: Number(values.runs), ...(values.seed === undefined ? {} : { seed: Number(values.seed) }) })
  process.stdout.write(`${JSON.stringify(counts)}\n`)
} catch (error) {
  process.stdout.write(`${String(error)}\n`)
  process.exitCode = 1
} finally {
  await c.destroy()
}
