/**
 * `pg-quorum resolve`: ends the transactions that a dead client left between prepare and commit. Drivers in use do this by
 * themselves within seconds; this is for a cluster that nobody uses just now, and for looking (--dry-run). Safe at any time and
 * several times at once: the ballots of docs/protocol.md, section 7, keep the decision single.
 */
import type { Command } from 'commander'
import { decide, type Evidence } from '../protocol/decision.ts'
import type { Cluster } from '../transaction/cluster.ts'
import { doubtsOf, finishDoubts, isOrphan, withCluster, type Doubtful, type Finished } from './doubts.ts'
import { survey } from './survey.ts'
import { age, count, dress, EXIT, say, sayJson, urlsOf, type Common } from './terminal.ts'

const EXAMPLE = `$ pg-quorum resolve --dry-run
quorum_1f0c…_1_9be2…_4_…  12 s old, owner gone, prepared on 2 of 3
  would commit: the evidence decides it
1 transaction in doubt; nothing was changed.`

export function addResolve(program: Command): void {
  dress(program.command('resolve').description('list the transactions in doubt and finish them')
    .option('--dry-run', 'only say what the evidence decides'), EXAMPLE)
    .action(async (options: Common & { dryRun?: true }) => {
      const urls = urlsOf(options.replicas ?? [])
      const found = await survey(urls)
      const doubts = doubtsOf(found)
      const speak = options.json ? (): void => undefined : say
      const describe = (d: Doubtful): void => speak(`${d.gid}\n  ${age(d.age_ms)} old, owner ${d.owner_alive ? 'alive' : 'gone'}, prepared on ${d.prepared_on.length} of ${found.replicas.length}: ${d.prepared_on.join(', ')}`)
      const report = await withCluster(urls, found, async (cluster) => {
        if (!options.dryRun) return { done: await finishDoubts(cluster, doubts, (f) => { describe(f); speak(`  ${wordsOf(f)}`) }), planned: [] }
        const planned = []
        for (const d of doubts) {
          const verdict = isOrphan(d, cluster.limits.grace_ms) ? await foresee(cluster, d.gid) : 'left to its owner'
          describe(d)
          speak(`  ${verdict}`)
          planned.push({ ...d, verdict })
        }
        return { done: [], planned }
      })
      const open = report.done.filter((f) => typeof f.resolution === 'object')
      if (options.json) sayJson({ dry_run: options.dryRun ?? false, transactions: options.dryRun ? report.planned : report.done })
      else say(doubts.length === 0 ? 'No transaction is in doubt.' : `${count(doubts.length, 'transaction')} in doubt${options.dryRun ? '; nothing was changed.' : `, ${report.done.filter((f) => typeof f.resolution === 'string' && f.resolution !== 'left').length} finished.`}`)
      process.exitCode = open.length > 0 ? EXIT.failed : EXIT.fine
    })
}

function wordsOf(f: Finished): string {
  if (typeof f.resolution === 'object') return `still in doubt: ${f.resolution.unknown}`
  return f.resolution === 'left' ? 'left to its owner' : f.resolution === 'commit' ? 'committed' : 'rolled back'
}

/** Reads only. */
async function foresee(cluster: Cluster, gid: string): Promise<string> {
  const evidence: Evidence[] = []
  await Promise.all(cluster.replicas.filter((r) => !cluster.suspects.has(r)).map((r) => r.evidence(gid).then((e) => evidence.push(e), () => undefined)))
  const decision = decide(evidence)
  if (decision) return `would ${decision === 'commit' ? 'commit' : 'roll back'}: the evidence decides it`
  if (evidence.length < cluster.needed) return `cannot be decided: ${evidence.length} of ${cluster.replicas.length} replicas answered, ${cluster.needed} are needed`
  return 'open: the evidence does not decide it, a ballot would'
}
