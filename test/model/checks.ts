/** What `npm run model` runs: docs/model/*.pml with their switches, and what must come out. */
export interface Check {
  readonly name: string
  readonly file: 'commit' | 'pair' | 'shared'
  readonly defines: string
  readonly says: string
  /**
   * holds: a full search without error. error: a mutant that spin must catch, or (left/) a limit that is known to
   * be there. bitstate: not exhaustive, for what is too large.
   */
  readonly expect: 'holds' | 'error' | 'bitstate'
  /** Also run by --quick. */
  readonly quick?: true
  /** Only run by --long. */
  readonly long?: true
}

/** Errors that a shallow search does not meet: looking there first would only cost time. */
export const DEEP = /\/(STALE|ONECOLUMN|POSSIBLE|COUNTONLY|SOMENO|CATCHPREPARED|VOTED)$/

const mutant = (file: Check['file'], name: string, says: string, defines = '', quick?: true): Check => ({
  name: `${file}/${name}`,
  file,
  defines: `-DM_${name} ${defines}`.trim(),
  says,
  expect: 'error',
  ...(quick ? { quick } : {}),
})

export const CHECKS: readonly Check[] = [
  {
    name: 'three-2',
    file: 'commit',
    defines: '-DN=3 -DK=2',
    expect: 'holds',
    quick: true,
    says: '3 replicas, 1 destroyed; owner and 2 resolvers; a conflicting transaction in the abstract',
  },
  {
    name: 'three-3',
    file: 'commit',
    defines: '-DN=3 -DK=3',
    expect: 'holds',
    says: 'the same with 3 resolvers, or 2 of which one has a second round',
  },
  {
    name: 'five-1',
    file: 'commit',
    defines: '-DN=5 -DK=1',
    expect: 'holds',
    says: '5 replicas, 2 destroyed; owner and 1 resolver',
  },
  {
    name: 'five-0',
    file: 'commit',
    defines: '-DN=5 -DK=1 -DD=0',
    expect: 'holds',
    quick: true,
    says: 'the same, none destroyed',
  },
  {
    name: 'pair-1',
    file: 'pair',
    defines: '-DK=1',
    expect: 'holds',
    says: '3 replicas, 1 destroyed; 2 owners that conflict, 1 resolver for each; histories, catch-up',
  },
  {
    name: 'shared-writer',
    file: 'shared',
    defines: '-DK=1 -DFOCUS=1 -DTHIRD=1',
    expect: 'holds',
    says: 'two readers and a writer of what they read; the writer in full',
  },
  {
    name: 'shared-reader',
    file: 'shared',
    defines: '-DK=1 -DFOCUS=0 -DTHIRD=1',
    expect: 'holds',
    says: 'the same; a reader in full',
  },
  {
    name: 'shared-skew',
    file: 'shared',
    defines: '-DK=1 -DFOCUS=0 -DTHIRD=2',
    expect: 'holds',
    says: 'T0 reads s and writes w, T1 writes s, T2 reads w and writes s (write skew); T0 in full',
  },
  {
    name: 'shared-skew-0',
    file: 'shared',
    defines: '-DK=1 -DFOCUS=0 -DTHIRD=2 -DD=0',
    expect: 'holds',
    quick: true,
    says: 'the same, none destroyed',
  },
  {
    name: 'shared-skew-0-2',
    file: 'shared',
    defines: '-DK=2 -DFOCUS=0 -DTHIRD=2 -DD=0',
    expect: 'holds',
    says: 'the same with 2 resolvers',
  },
  {
    name: 'shared-chain',
    file: 'shared',
    defines: '-DK=1 -DFOCUS=0 -DTHIRD=3',
    expect: 'holds',
    says: 'T2 reads what T0 writes, T0 reads what T1 writes; T0 in full',
  },

  mutant('commit', 'SHORTCUT', 'W prepared are a decision, without the lead’s commit (decision 4)', '', true),
  mutant('commit', 'UNTOLD', 'the owner says it never told its lead to commit, though it did', '', true),
  mutant('commit', 'LEADFREE', 'choose() takes a silent lead for one that has promised', '', true),
  mutant('commit', 'SILENT', 'choose() with the lead silent ignores what is prepared', '', true),
  mutant('commit', 'POSSIBLE', 'choose() skips an acceptance that may have been chosen', '', true),
  mutant('commit', 'ONECOLUMN', 'one variable for promised and accepted (N7)', '-DK=3', true),
  mutant(
    'commit',
    'TORN',
    'evidence() looks at versions in a later snapshot than at applied, so a commit in between looks superseded (was in the driver)',
    '',
    true,
  ),
  mutant(
    'commit',
    'STALE',
    'promise() on a prepared member answers with evidence from before it had the ballot row (was in the driver)',
    '',
    true,
  ),
  mutant(
    'commit',
    'ASYNC',
    'the lead’s connection may have synchronous_commit off, so a crash forgets its COMMIT (was in the driver)',
    '',
    true,
  ),
  mutant('commit', 'EARLY', 'the lead commits one yes too early', '', true),
  mutant('commit', 'FENCE', 'an accept ignores promises'),
  mutant('commit', 'BUSY', 'a promise is given while the lead’s session is open (no T)'),
  mutant('commit', 'NOT_T', 'a promise is given while an accept is under way (no T)'),
  mutant('commit', 'ACCEPTFIRST', 'a resolver’s acceptance is recorded before its copy is prepared', '', true),
  mutant('commit', 'VOLATILE', 'promises and acceptances are not durable'),
  mutant('commit', 'ROLLBACK', 'the owner rolls back after an unknown outcome', '', true),
  mutant('commit', 'SOMENO', 'definite abort with an unanswered follower (5 replicas)', '-DN=5 -DK=1', true),
  mutant('commit', 'CATCHPREPARED', 'catch-up applies a last copy that nobody has agreed on', '', true),
  mutant('pair', 'FENCE', 'an accept ignores promises'),
  mutant('pair', 'BASE', 'an accept does not look at versions', '', true),
  mutant('pair', 'NO_A', 'an accept does not wait for A'),
  mutant('pair', 'CATCHPREPARED', 'catch-up applies a last copy that nobody has agreed on'),
  mutant('pair', 'CATCHORDER', 'catch-up applies in any order'),
  mutant(
    'pair',
    'BOUND',
    'whatever is prepared binds to commit, though its lead has promised: two transactions in each other’s way, for ever (decision 4)',
    '',
    true,
  ),
  mutant('shared', 'NOMARKS', 'read marks dropped', '-DK=1 -DFOCUS=0', true),
  mutant('shared', 'COUNTONLY', 'read marks counted, their sum not compared', '-DK=1 -DFOCUS=1'),
  mutant('shared', 'READFREE', 'A not taken for what is only read', '-DK=1 -DFOCUS=0', true),

  {
    name: 'left/LEADS',
    file: 'pair',
    defines: '-DDOUBT=0',
    expect: 'error',
    quick: true,
    says: 'LEFT, not a mutant: in doubt for ever where both transactions’ leads are lost',
  },

  {
    name: 'left/VOTED',
    file: 'pair',
    defines: '-DDOUBT=1',
    expect: 'error',
    says: 'LEFT, not a mutant: the same with one lead lost, the other transaction voted for in a ballot',
  },

  {
    name: 'three-4',
    file: 'commit',
    defines: '-DN=3 -DK=4',
    expect: 'bitstate',
    long: true,
    says: '2 resolvers with 2 rounds each',
  },
  {
    name: 'five-2',
    file: 'commit',
    defines: '-DN=5 -DK=2',
    expect: 'bitstate',
    long: true,
    says: '5 replicas, 2 destroyed, 2 resolvers',
  },
  {
    name: 'pair-2',
    file: 'pair',
    defines: '-DK=2',
    expect: 'bitstate',
    long: true,
    says: '2 owners that conflict, 2 resolvers for each',
  },
]
