/** npm run test:property -- --runs 300 [--seed n [--path p]] [--seconds s]: the property test at length. */
import { parseArgs } from 'node:util'
import { cluster } from '../cluster.ts'
import { property } from './run.ts'

const { values } = parseArgs({
  options: {
    runs: { type: 'string', default: '100' },
    seed: { type: 'string' },
    path: { type: 'string' },
    seconds: { type: 'string' },
  },
})
const c = await cluster()
try {
  const counts = await property(c, c.pool(), {
    runs: Number(values.runs),
    ...(values.seed === undefined ? {} : { seed: Number(values.seed) }),
    ...(values.seconds === undefined ? {} : { seconds: Number(values.seconds) }),
    ...(values.path === undefined ? {} : { path: values.path }),
  })
  process.stdout.write(`${JSON.stringify(counts)}\n`)
} catch (error) {
  process.stdout.write(
    `${String(error).replace(/Counterexample: .*/, '')}\n${error instanceof Error && error.cause instanceof Error ? error.cause.message : ''}\n`,
  )
  process.exitCode = 1
} finally {
  await c.destroy()
}
