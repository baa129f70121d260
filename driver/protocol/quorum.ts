/**
 * Quorum arithmetic, and nothing else (docs/protocol.md, section 9). A vote is pending, won or lost; it is lost as
 * soon as the members that may still say yes are too few.
 */
export const majority = (members: number): number => Math.floor(members / 2) + 1

export function tally(needed: number, yes: number, pending: number): 'won' | 'lost' | 'pending' {
  if (yes >= needed) return 'won'
  return yes + pending < needed ? 'lost' : 'pending'
}
