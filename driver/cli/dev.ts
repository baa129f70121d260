/**
 * `pg-quorum dev`: N real PostgreSQL servers on this machine, initialised as one cluster, for trying things out.
 * They live as long as this command and leave nothing behind, whichever way it ends. Anyone on this machine can
 * connect: not for data that matters.
 */
import { Option, type Command } from 'commander'
import type { ServerOptions } from '../embedded/embedded.ts'
import { replicaConfigs } from '../config.ts'
import { nameOf } from '../replica/address.ts'
import { sleep } from '../runtime.ts'
import { init } from '../schema/install.ts'
import { count, dress, onInterruption, say, sayJson, wholeNumber, type Common } from './terminal.ts'

const EXAMPLE = `$ pg-quorum dev
postgres://postgres@127.0.0.1:15001/postgres
…
export PG_QUORUM_REPLICAS=postgres://…,postgres://…,postgres://…`
const SAMPLE = `  import { Pool } from 'pg-quorum'
  const pool = new Pool() // reads PG_QUORUM_REPLICAS
  console.log((await pool.query('SELECT now()')).rows)`
const MAJORS = ['15', '16', '17', '18'] as const

export function addDev(program: Command): void {
  dress(
    program
      .command('dev')
      .description('start PostgreSQL servers here as a cluster to play with, until Ctrl-C')
      .option('-n, --servers <count>', 'how many', wholeNumber(1, 9), 3)
      .addOption(new Option('--major <version>', 'PostgreSQL version').choices(MAJORS).default('18')),
    EXAMPLE,
    'nothing yet',
  ).action(async (options: Common & { servers: number; major: string }) => {
    const { startServers } = await import('../embedded/embedded.ts')
    const starting = startServers(options.servers, {
      major: Number(options.major) as NonNullable<ServerOptions['major']>,
    })
    let ending = false
    const destroyed = async (): Promise<void> => {
      ending = true
      await Promise.all((await starting.catch(() => [])).map((s) => s.destroy()))
    }
    onInterruption(destroyed)
    const servers = await starting
    const urls = servers.map((s) => s.url)
    try {
      const configs = replicaConfigs({ replicas: urls })
      await init(configs, configs.map(nameOf))
    } catch (error) {
      await destroyed()
      throw error
    }
    if (options.json)
      sayJson({ replicas: urls, environment: { PG_QUORUM_REPLICAS: urls.join(',') }, pids: servers.map((s) => s.pid) })
    else {
      say(
        `${count(urls.length, 'PostgreSQL server')} (version ${options.major}) as one cluster:\n${urls.map((u) => `  ${u}`).join('\n')}\n`,
      )
      say(`In another terminal:\n\nexport PG_QUORUM_REPLICAS=${urls.join(',')}\n\n${SAMPLE}\n`)
      say('Ctrl-C ends them and removes their data.')
    }
    const gone = new Set<string>()
    for (;;) {
      // the servers do not keep this process alive; this does
      await sleep(1000)
      for (const s of servers) {
        if (ending || s.pid !== undefined || gone.has(s.url)) continue
        gone.add(s.url)
        process.stderr.write(`the server at 127.0.0.1:${s.port} has ended; \`pg-quorum status\` says what that means\n`)
      }
    }
  })
}
