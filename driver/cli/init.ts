/**
 * `pg-quorum init`: makes N PostgreSQL servers one cluster. Idempotent: run again after an upgrade, or when unsure. It is the one
 * command that needs all servers, because it also checks that they are equal before the first write.
 */
import type { Command } from 'commander'
import { replicaConfigs } from '../config.ts'
import { majority } from '../protocol/quorum.ts'
import { nameOf } from '../replica/postgres.ts'
import { init } from '../schema/install.ts'
import { count, dress, say, sayJson, urlsOf, type Common } from './terminal.ts'

const EXAMPLE = `$ pg-quorum init --role myapp postgres://postgres@10.0.0.1/app \\
    postgres://postgres@10.0.0.2/app postgres://postgres@10.0.0.3/app
10.0.0.1:5432/app  member 1  initialised
10.0.0.2:5432/app  member 2  initialised
10.0.0.3:5432/app  member 3  initialised
Cluster 1f0c… of 3 replicas: writes go on while 2 of them live.`

export function addInit(program: Command): void {
  dress(program.command('init').description('make the servers one cluster, as a superuser: check them, install the schema; a second run renews it')
    .option('--role <name...>', 'roles that applications and migrations connect as; they\nneed not be superusers. May be added later')
    .argument('[urls...]', 'the servers; default: --replicas, then PG_QUORUM_REPLICAS'), EXAMPLE)
    .action(async (urls: string[], options: Common & { role?: string[] }) => {
      const configs = replicaConfigs({ replicas: urlsOf(urls.length > 0 ? urls : (options.replicas ?? [])) })
      const report = await init(configs.map((c) => ({ query_timeout: 60_000, ...c })), configs.map(nameOf), options.role)
      if (options.json) return sayJson(report)
      const width = Math.max(...report.members.map((m) => m.name.length))
      for (const m of report.members) say(`${m.name.padEnd(width)}  member ${m.member}  ${m.created ? 'initialised' : 'was initialised already, renewed'}${m.building ? `; it takes no part before \`pg-quorum clone ${m.name.split('/')[0]}\` has built it` : ''}`)
      const n = report.members.length
      say(`Cluster ${report.cluster} of ${count(n, 'replica')}: writes go on while ${majority(n)} of them ${majority(n) === 1 ? 'lives' : 'live'}.`)
    })
}
