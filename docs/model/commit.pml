/* One transaction as built: its owner, K ballots of resolvers, N replicas of which N - W may be destroyed, and one conflicting
   transaction in the abstract. Read README.md first. Line references: driver/schema/functions.sql unless another file is named.

   One process, one atomic step for each thing that a replica executes. A request that was sent may execute at any later time, or never;
   a driver may stop anywhere, because no step has to be taken. What is decided (the lead's commit, a ballot's W votes, all followers' no, superseded)
   is decided whether or not anybody has noticed: whoever may act on it may do so in any later step, so decC and decA are set at once and lose no run.
   Each ballot is a resolver's round of its own, so K ballots are K resolvers with one round, or fewer with more. */
#ifndef N
#define N 3
#endif
#ifndef K
#define K 2                 /* ballots 1..K; their order is that of (promised, promised_to) */
#endif
#define W (N/2+1)
#ifndef D
#define D (N-W)             /* how many may be destroyed, for ever, at any moment */
#endif
#define LEAD 0              /* by numbering; the followers are interchangeable, see sorted() */

/* A replica is one record of bits. Everything but SEALED is durable: a crash ends the lead's session and loses nothing else. */
int r[N];
#define GET(i,s,m)   ((r[i]>>(s))&(m))
#define SET(i,s,m,v) r[i] = (r[i] & ~((m)<<(s))) | ((v)<<(s))
#define ST(i)    GET(i,0,3)    /* our transaction here */
#define NONE 0
#define PREP 1
#define SEALED 2               /* only the lead: open, T(gid) and A held */
#define COMM 3
#define TOLD(i)  GET(i,2,3)    /* the follower's answer to the owner's accept */
#define YES 1
#define NO 2
#define UNTOLD   GET(LEAD,4,1) /* the owner gave up before it told its lead to commit, and never will */
#define DEAD(i)  GET(i,5,1)
#define H(i)     GET(i,6,3)    /* the conflicting transaction here: 0, PREP or COMM */
#define PROM(i)  GET(i,8,7)    /* highest promise */
#define ACC(i)   GET(i,11,7)   /* highest ballot accepted in; its decision is ph[] of that ballot */
#define IN(i,b)  GET(i,13+(b),1) /* the resolver of ballot b counts this member (phase 1: promised, phase 2: accepted) */
#define LOOK(i)  GET(i,18,1)   /* mutants: somebody is between two of its statements here */
#define setST(i,v)   SET(i,0,3,v)
#define setTOLD(i,v) SET(i,2,3,v)
#define setUNTOLD    SET(LEAD,4,1,1)
#define setH(i,v)    SET(i,6,3,v)
#define setPROM(i,v) SET(i,8,7,v)
#define setACC(i,v)  SET(i,11,7,v)
#define setIN(i,b,v) SET(i,13+(b),1,v)
#define setLOOK(i,v) SET(i,18,1,v)
#if N==3
#define COUNT(f) ((f(0))+(f(1))+(f(2)))
#else
#define COUNT(f) ((f(0))+(f(1))+(f(2))+(f(3))+(f(4)))
#endif

byte ph[K+1];               /* a ballot: 0 collecting promises, else what it chose */
#define COMMIT 1
#define ABORT 2
byte prep[K+1];             /* among its promises: prepared there; accepted in ballot j, and that decision */
byte votes[(K+1)*(K+1)], val[(K+1)*(K+1)];
#define CNT(b,j) votes[(b)*(K+1)+(j)]
#define VAL(b,j) val[(b)*(K+1)+(j)]
bool decC, decA;            /* decided: commit, abort. Includes what the owner tells its caller */
byte hdec;                  /* the other transaction's decision */
#ifdef M_STALE
byte w, was;
#endif

#define said_yes(i) (i!=LEAD && TOLD(i)==YES)
#define said_no(i)  (i!=LEAD && TOLD(i)==NO)
#define dead(i)     (DEAD(i)==1)
#define has_h(i)    (H(i)!=0)
#define without(i)  (DEAD(i)==0 && ST(i)!=PREP && ST(i)!=COMM)
#define committed_alive(i) (DEAD(i)==0 && ST(i)==COMM)
#define prepared_alive(i)  (DEAD(i)==0 && ST(i)==PREP)
#define FREE(i)     (ST(i)==NONE && H(i)==0)       /* A can be had, and the version is the base */
#define PAST(i)     (ST(i)!=COMM && ST(i)!=PREP && H(i)==COMM)  /* superseded */

/* ---- the mutants; each line is one thing that the code must do ---- */
#ifdef M_FENCE              /* an accept ignores promises */
#define FENCED(i,b) false
#else
#define FENCED(i,b) (PROM(i) > b)
#endif
#ifdef M_EARLY              /* the lead commits one yes too early */
#define LEAD_NEEDS (W-2)
#else
#define LEAD_NEEDS (W-1)
#endif
#ifdef M_BUSY               /* no T: a promise is given while the lead's session is open */
#define BUSY(i) false
#else
#define BUSY(i) (ST(i)==SEALED)
#endif
#ifdef M_SHORTCUT           /* W prepared with no promise made are a decision, without the lead's commit */
#define bare(i) (ST(i)==PREP && PROM(i)==0)
inline prepared_now() { if :: COUNT(bare)>=W -> decC = 1 :: else fi }
#else
inline prepared_now() { skip }
#endif
#ifdef M_UNTOLD             /* the owner says untold though it told */
#define MAY_COMMIT true
#else
#define MAY_COMMIT (UNTOLD==0)
#endif
#ifdef M_LEADFREE           /* choose() takes the lead for one that has promised, though it is silent */
#define LEAD_FREE(b) true
#else
#define LEAD_FREE(b) (IN(LEAD,b)==1)
#endif
#ifdef M_POSSIBLE           /* choose() skips an acceptance that may have been chosen, where it is not sure */
#define POSSIBLE(have,not) ((have) >= W)
#else
#define POSSIBLE(have,not) (N-(not) >= W)
#endif
#ifdef M_ONECOLUMN          /* one variable for promised and accepted (N7) */
#define RANK(i) PROM(i)
#else
#define RANK(i) ACC(i)
#endif
#ifdef M_SILENT             /* choose() with the lead silent ignores what is prepared */
#define MAY_BE_CHOSEN(b,p) false
#else
#define MAY_BE_CHOSEN(b,p) (prep[b]>0 && N-((p)-prep[b]) >= W)
#endif
#ifdef M_ACCEPTFIRST        /* the resolver records its acceptance before the copy is prepared */
#define MAY_RECORD(i) (ST(i)==PREP || ST(i)==NONE)
#else
#define MAY_RECORD(i) (ST(i)==PREP)
#endif
#ifdef M_SOMENO             /* a definite abort as soon as W - 1 yeses are out of reach */
#define ABORT_NEEDS (N-W+1)
#else
#define ABORT_NEEDS (N-1)
#endif
#ifdef M_CATCHPREPARED      /* catch-up believes a copy that is only prepared */
#define SOURCE (COUNT(committed_alive)+COUNT(prepared_alive) > 0)
#else
#define SOURCE (COUNT(committed_alive) > 0)
#endif

/* choose() in protocol/decision.ts. It needs of the promises only how many are prepared, how many accepted in each ballot, and whether the lead is among them. */
inline read_reply(b, prepared, rank, accepted) {
  prep[b] = prep[b] + (prepared);
#if K>1
  if :: accepted>0 -> CNT(b,rank) = CNT(b,rank)+1; VAL(b,rank) = ph[accepted] :: else fi
#endif
}
#define promised_b(i) IN(i,b)
inline choose(b) {    /* x: a ballot, from the highest down; h: how many promises had accepted in it, or in a higher one */
#if K>1
  x = K; h = 0;
  do :: x>0 && ph[b]==0 -> h = h+CNT(b,x);
          if :: CNT(b,x)>0 && POSSIBLE(h, COUNT(promised_b)-h) -> ph[b] = VAL(b,x) :: else fi; x--
     :: else -> break
  od;
#endif
  if
#if K>1
     :: ph[b]!=0
#endif
     :: ph[b]==0 && (UNTOLD==1 || LEAD_FREE(b)) -> if :: prep[b]>=W -> ph[b] = COMMIT :: else -> ph[b] = ABORT fi
     :: ph[b]==0 && !LEAD_FREE(b) -> if :: MAY_BE_CHOSEN(b,COUNT(promised_b)) -> ph[b] = COMMIT :: else -> ph[b] = ABORT fi
  fi;                       /* both, where the owner gave up: the ballot is the owner's, or a stranger's */
  prep[b] = 0; for (x : 0 .. K) { CNT(b,x) = 0; VAL(b,x) = 0 } for (x : 0 .. N-1) { setIN(x,b,0) } x = 0; h = 0
}
inline sorted() {           /* followers are interchangeable: keep their records in descending order */
  if :: r[1]<r[2] -> x=r[1]; r[1]=r[2]; r[2]=x :: else fi;
#if N==5
  if :: r[2]<r[3] -> x=r[2]; r[2]=r[3]; r[3]=x :: else fi; if :: r[3]<r[4] -> x=r[3]; r[3]=r[4]; r[4]=x :: else fi;
  if :: r[1]<r[2] -> x=r[1]; r[1]=r[2]; r[2]=x :: else fi; if :: r[2]<r[3] -> x=r[2]; r[2]=r[3]; r[3]=x :: else fi;
  if :: r[1]<r[2] -> x=r[1]; r[1]=r[2]; r[2]=x :: else fi; if :: r[3]<r[4] -> x=r[3]; r[3]=r[4]; r[4]=x :: else fi; if :: r[2]<r[3] -> x=r[2]; r[2]=r[3]; r[3]=x :: else fi; if :: r[3]<r[4] -> x=r[3]; r[3]=r[4]; r[4]=x :: else fi;
#endif
  x = 0
}
inline check() {
  assert(!(decC && decA));                       /* decided once; a definite abort never commits */
  assert(!(decC && hdec==COMMIT));               /* one chosen transaction at a version: one history */
  assert(!decC || COUNT(without) < W)            /* what is decided can be read, or finished, in every majority that is left */
}

active proctype World() {
  byte i, b, h; int x;
  d_step { setST(LEAD, SEALED) }
end: do
  :: atomic {
     if :: i=0 :: i=1 :: i=2
#if N==5
        :: i=3 :: i=4
#endif
     fi;
     if :: DEAD(i)==0 :: else -> goto next fi;
     if
     /* -- owner: driver/transaction/commit.ts -- */
     :: i!=LEAD && TOLD(i)==0 && FREE(i) && !FENCED(i,0) -> setST(i,PREP); setTOLD(i,YES); prepared_now()
     :: i!=LEAD && TOLD(i)==0 -> setTOLD(i,NO); if :: COUNT(said_no)>=ABORT_NEEDS -> decA = 1 :: else fi
     :: ST(i)==SEALED && COUNT(said_yes)>=LEAD_NEEDS && MAY_COMMIT -> setST(i,COMM); decC = 1;
#ifdef M_ASYNC              /* the lead's COMMIT is not flushed (synchronous_commit off): a crash may forget it */
             setLOOK(i,1)
     :: LOOK(i)==1 && ST(i)==COMM -> setST(i,NONE); setLOOK(i,0)
#endif
     :: ST(i)==SEALED -> setST(i,NONE)             /* the session ends: crash, owner, or pg_terminate_backend in promise */
#ifdef M_ROLLBACK           /* the owner rolls back what it could not find the outcome of */
     :: ST(i)==PREP && TOLD(i)==YES -> setST(i,NONE)
#endif
     :: i==LEAD && UNTOLD==0 && decC==0 -> setUNTOLD
     /* -- finish, catch-up, destruction -- */
     :: decC && ST(i)==PREP -> setST(i,COMM)
     :: decA && ST(i)==PREP -> setST(i,NONE)
     :: FREE(i) && SOURCE -> setST(i,COMM); decC = 1
#if D>0
     :: COUNT(dead)<D -> SET(i,5,1,1)
#endif
     /* -- the other transaction, in the abstract: chosen by W prepared, or W - 1 and its lead's commit; aborted at will before that -- */
     :: hdec==0 && FREE(i) -> setH(i,PREP)
     :: hdec==0 && FREE(i) && COUNT(has_h)>=W-1 -> setH(i,COMM); hdec = COMMIT; decA = 1
     :: hdec==0 && COUNT(has_h)>=W -> hdec = COMMIT
     :: hdec==0 && H(i)==PREP -> hdec = ABORT
     :: hdec==COMMIT && (H(i)==PREP || FREE(i)) -> setH(i,COMM); decA = 1   /* superseded: decide() says abort */
     :: hdec==ABORT && H(i)==PREP -> setH(i,0)
#ifdef M_NOT_T              /* an accept on its way does not exclude promises: it looked before, and prepares after */
     :: i!=LEAD && TOLD(i)==0 && PROM(i)==0 && FREE(i) -> setLOOK(i,1)
     :: TOLD(i)==0 && LOOK(i)==1 && FREE(i) -> setLOOK(i,0); setST(i,PREP); setTOLD(i,YES)
#endif
#ifdef M_VOLATILE           /* promises are not durable: a crash forgets them */
     :: PROM(i)>0 -> setPROM(i,0); setACC(i,0)
#endif
#ifdef M_TORN               /* evidence(): "done" in one snapshot, against() in a later one: our own commit looks like another's */
     :: ST(i)!=PREP && ST(i)!=COMM -> setLOOK(i,1)
     :: LOOK(i)==1 && ST(i)==COMM -> decA = 1
#endif
     :: true -> if :: b=1
#if K>1
        :: b=2
#endif
#if K>2
        :: b=3
#endif
#if K>3
        :: b=4
#endif
        fi;
        if
        /* -- phase 1, and the promise that starts acceptCommit; the reply may be lost, the request late, and repeated -- */
        :: PROM(i)<=b && !BUSY(i) && ST(i)!=COMM && !PAST(i) ->
             if :: ph[b]==0 && IN(i,b)==0 -> read_reply(b, ST(i)==PREP, RANK(i), ACC(i)); setIN(i,b,1) :: true fi;
             setPROM(i,b)
#ifdef M_STALE              /* promise(): where prepared, T is not had, and the evidence is read before the row is locked */
        :: PROM(i)<b && ST(i)==PREP && ph[b]==0 && IN(i,b)==0 && w==0 -> was = ACC(i); setLOOK(i,1); w = b
        :: PROM(i)<b && LOOK(i)==1 && w==b && ph[b]==0 -> read_reply(b, 1, was, was); setIN(i,b,1); setPROM(i,b); setLOOK(i,0); w = 0; was = 0
#endif
        :: ph[b]==0 && COUNT(promised_b)>=W -> choose(b)
        /* -- phase 2 -- */
        :: ph[b]==ABORT && PROM(i)<=b && IN(i,b)==0 && !BUSY(i) && ST(i)!=COMM -> setPROM(i,b); setACC(i,b); setIN(i,b,1); if :: COUNT(promised_b)>=W -> decA = 1 :: else fi
        :: ph[b]==COMMIT && PROM(i)>=b && !FENCED(i,b) && FREE(i) -> setST(i,PREP)
        :: ph[b]==COMMIT && PROM(i)<=b && IN(i,b)==0 && MAY_RECORD(i) -> setPROM(i,b); setACC(i,b); setIN(i,b,1); if :: COUNT(promised_b)>=W -> decC = 1 :: else fi
        :: else
        fi
     fi;
     check(); sorted();
next: i = 0; b = 0; x = 0 }
  od
}
