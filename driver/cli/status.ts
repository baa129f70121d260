/**
 * `pg-quorum status`: one line a replica, one for the whole. Works best when things are bad: every server is asked at the same time
 * and has its own deadline, so the answer comes within seconds whatever is down. Changes nothing.
 */
import type { Command } from 'commander'
import { MOST_BEHIND, survey, type Sight, type Survey } from './survey.ts'
import { age, count, dress, EXIT, say, sayJson, urlsOf, type Common } from './terminal.ts'

const EXAMPLE = `$ pg-quorum status
10.0.0.1:5432/app  member 1  current
10.0.0.2:5432/app  member 2  behind by 12 changesets
10.0.0.3:5432/app  -         unreachable: nothing listens there
Writes are possible: 2 of 3 usable, 2 needed; can bear no further loss.`

export function addStatus(program: Command): void {
  dress(program.command('status').description('say how each replica is, and whether the cluster can write'), EXAMPLE)
    .action(async (options: Common) => {
      const found = await survey(urlsOf(options.replicas ?? []))
      if (options.json) sayJson(found)
      else for (const line of linesOf(found)) say(line)
      process.exitCode = found.writable ? EXIT.fine : EXIT.failed
    })
}

function linesOf(found: Survey): string[] {
  const width = Math.max(...found.replicas.map((r) => r.name.length))
  return [
    ...found.replicas.map((r) => `${r.name.padEnd(width)}  ${(r.member === null ? '-' : `member ${r.member}`).padEnd(8)}  ${stateOf(r)}`),
    wholeOf(found),
  ]
}

function stateOf(r: Sight): string {
  const oldest = Math.max(0, ...r.doubt.map((d) => d.age_ms))
  const doubt = r.doubt.length > 0 ? `, ${r.doubt.length} in doubt (oldest ${age(oldest)})` : ''
  const error = r.error === null ? '' : `: ${r.error}`
  switch (r.state) {
    case 'current': return `current${doubt}`
    case 'behind': return `behind by ${r.behind >= MOST_BEHIND ? 'at least ' : ''}${count(r.behind, 'changeset')}${doubt}`
    case 'diverged': return `diverged${doubt}${error}`
    case 'unreachable': return `unreachable${error}`
    case 'not-initialised': return `not initialised${error}`
    case 'building': return `being built${error}`
    case 'not-a-member': return `not a member${error}`
  }
  return r.state satisfies never
}

function wholeOf(f: Survey): string {
  const have = `${f.usable} of ${f.replicas.length} usable, ${f.needed} needed`
  if (!f.writable) return `Writes are NOT possible: ${have}; ${f.needed - f.usable} more must come back.`
  return `Writes are possible: ${have}; can bear ${f.spare === 0 ? 'no further loss' : `${f.spare} more ${f.spare === 1 ? 'loss' : 'losses'}`}.`
}
