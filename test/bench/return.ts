/**
 * npm run bench:return -- [--missed 2000] [--callers 8] [--rtt 100]: one of three servers has missed so many
 * transfers, and so many callers go on with them: how long until it is level, with a distance to it if wanted.
 */
import { parseArgs } from 'node:util'
import { setTimeout as sleep } from 'node:timers/promises'
import { startServers } from '../../driver/embedded/embedded.ts'
import { Pool } from '../../driver/index.ts'
import { found } from '../cluster.ts'
import { ask, destroyAll } from '../servers.ts'
import { load, SETTINGS } from './contenders.ts'
import { distance } from './distance.ts'
import { machine } from './report.ts'
import { through } from './workloads.ts'

const { values } = parseArgs({
  options: {
    missed: { type: 'string', default: '2000' },
    callers: { type: 'string', default: '8' },
    rtt: { type: 'string', default: '0' },
    most: { type: 'string', default: '60' },
  },
})
const [missed, callers, rtt, most_s] = [
  Number(values.missed),
  Number(values.callers),
  Number(values.rtt),
  Number(values.most),
]
const servers = await startServers(3, { settings: SETTINGS })
const far = distance(rtt)
try {
  await Promise.all(servers.map(load))
  const urls = await found(servers)
  const pool = new Pool({ replicas: [urls[0]!, urls[1]!, await far.way(urls[2]!)], max: Math.max(16, callers) })
  const { transfer } = through(pool)
  let done = 0
  const goOn = async (worker: number, over: () => boolean): Promise<void> => {
    while (!over()) {
      await transfer(worker).then(
        () => done++,
        (error: { code?: string }) => {
          if (error.code !== '40001') throw error
        },
      )
    }
  }
  await goOn(0, () => done >= 50)
  const away = servers[2]!
  await away.kill()
  done = 0
  await Promise.all(Array.from({ length: 16 }, (_, w) => goOn(w, () => done >= missed)))
  let over = false
  const writers = Promise.all(Array.from({ length: callers }, (_, w) => goOn(w, () => over)))
  await away.start()
  const [from, before] = [performance.now(), done]
  const seconds = (): number => (performance.now() - from) / 1000
  const position = async (i: number): Promise<number> =>
    Number((await ask(servers[i]!, 'SELECT coalesce(sum(version), 0) AS v FROM quorum.stripe'))[0]!['v'])
  console.log(
    `${done} transfers missed, ${callers} callers go on${rtt > 0 ? `, ${rtt} ms to the server that comes back` : ''} (${machine()})`,
  )
  // What was committed a moment ago: a commit of now is still on its way there.
  let [behind, committed] = [Infinity, await position(0)]
  for (let said = 0; behind > 0 && seconds() < most_s;) {
    await sleep(200 + 3 * rtt)
    behind = committed - (await position(2))
    committed = await position(0)
    if (seconds() - said < 1) continue
    said = seconds()
    console.log(
      `  ${said.toFixed(1).padStart(5)} s  ${Math.max(0, behind)} versions behind, ${done - before} transfers since`,
    )
  }
  console.log(
    `${behind > 0 ? 'NOT LEVEL' : 'level'} after ${seconds().toFixed(1)} s; ${((done - before) / seconds()).toFixed(0)} transfers a second meanwhile`,
  )
  process.exitCode = behind > 0 ? 1 : 0
  over = true
  await writers
  await pool.end()
} finally {
  if (rtt > 0) far.close()
  await destroyAll(servers)
}
