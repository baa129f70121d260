/* Two transactions that conflict, both in full: two owners, K ballots for each transaction, N replicas of which N - W may be destroyed,
   catch-up, histories. Read commit.pml first: the steps and the reductions are the same; here nothing of the other one is abstract.
   DOUBT is no question of safety but of ever ending: see stuck().
   The second transaction may begin before or after the first has been committed on its lead: its base is what it finds there. */
#define N 3
#ifndef K
#define K 1
#endif
#define W (N/2+1)
#ifndef D
#define D (N-W)
#endif

/* a transaction on a replica: one record of bits, as in commit.pml */
short r[2*N];
#define R(g,i) r[(g)*N+(i)]
#define GET(g,i,s,m)   ((R(g,i)>>(s))&(m))
#define SET(g,i,s,m,v) R(g,i) = (R(g,i) & ~((m)<<(s))) | ((v)<<(s))
#define ST(g,i)    GET(g,i,0,3)
#define NONE 0
#define PREP 1
#define SEALED 2
#define COMM 3
#define TOLD(g,i)  GET(g,i,2,3)
#define YES 1
#define NO 2
#define PROM(g,i)  GET(g,i,4,3)
#define ACC(g,i)   GET(g,i,6,3)
#define IN(g,i,b)  GET(g,i,8+(b),1)
#define setST(g,i,v)   SET(g,i,0,3,v)
#define setTOLD(g,i,v) SET(g,i,2,3,v)
#define setPROM(g,i,v) SET(g,i,4,3,v)
#define setACC(g,i,v)  SET(g,i,6,3,v)
#define setIN(g,i,b,v) SET(g,i,8+(b),1,v)
#define COUNT(f) ((f(0))+(f(1))+(f(2)))

bool dead[N];
byte hist[N];               /* 0 | first | first*4 + second, of 1 (transaction 0) and 2 (transaction 1) */
byte base[2], lead[2];      /* base: 0 or 1 versions found on the lead at the seal; 3: not sealed yet */
bool untold[2];             /* the owner gave up before it told its lead to commit */
byte ph[2*(K+1)], prep[2*(K+1)], votes[2*(K+1)*(K+1)];
#define PH(g,b) ph[(g)*(K+1)+(b)]
#define READ(g,b) prep[(g)*(K+1)+(b)]     /* among its promises: prepared there; accepted in ballot j */
#define CNT(g,b,j) votes[((g)*(K+1)+(b))*(K+1)+(j)]
#define COMMIT 1
#define ABORT 2
bool decC[2], decA[2];

#define VER(i)    ((hist[i]>0)+(hist[i]>3))
#define HELD(i)   (ST(0,i)==PREP || ST(0,i)==SEALED || ST(1,i)==PREP || ST(1,i)==SEALED)   /* A is taken */
#define FITS(g,i) (!HELD(i) && ST(g,i)==NONE && VER(i)==base[g])
#define PAST(g,i) (base[g]<3 && VER(i)>base[g] && ST(g,i)!=COMM)
#define said_yes(i) (i!=lead[g] && TOLD(g,i)==YES)
#define said_no(i)  (i!=lead[g] && TOLD(g,i)==NO)
#define promised_b(i) (IN(g,i,b)==1)
#define without0(i) (!dead[i] && ST(0,i)!=PREP && ST(0,i)!=COMM)
#define without1(i) (!dead[i] && ST(1,i)!=PREP && ST(1,i)!=COMM)
#define committed(i) (!dead[i] && ST(g,i)==COMM)
#define past(i)     (!dead[i] && PAST(g,i))

#ifdef M_FENCE              /* an accept ignores promises */
#define FENCED(g,i,b) false
#else
#define FENCED(g,i,b) (PROM(g,i) > b)
#endif
#ifdef M_BASE               /* an accept does not look at versions */
#define ACCEPTABLE(g,i) (!HELD(i) && ST(g,i)==NONE && base[g]<3 && VER(i)<2)
#else
#define ACCEPTABLE(g,i) FITS(g,i)
#endif
#ifdef M_NO_A               /* an accept does not wait for A, which a prepared transaction keeps */
#undef ACCEPTABLE
#define ACCEPTABLE(g,i) (ST(g,i)==NONE && VER(i)==base[g])
#endif
#ifdef M_CATCHPREPARED      /* catch-up believes a copy that is only prepared */
#define SOURCE(j) (ST(g,j)==COMM || ST(g,j)==PREP)
#else
#define SOURCE(j) (ST(g,j)==COMM)
#endif
#ifdef M_CATCHORDER         /* catch-up does not look at versions: it applies what is missing in any order */
#define NEXT(g,i) (!HELD(i) && ST(g,i)==NONE && base[g]<3 && VER(i)<2)
#else
#define NEXT(g,i) FITS(g,i)
#endif

/* a resolver votes only once W have the copy */
#define copied(i) (PROM(g,i)>=b && (ST(g,i)==PREP || ST(g,i)==COMM))
#define COPIED (COUNT(copied)>=W)

inline put(g,i) { setST(g,i,COMM); hist[i] = hist[i]*4 + g + 1 }
#define POSSIBLE(not) (N-(not) >= W)
#ifdef M_BOUND              /* whatever is prepared binds a resolver to commit, though the lead has promised */
#define LEAD_FREE false
#define LEAD_SILENT true
#else
#define LEAD_FREE (untold[g] || IN(g,lead[g],b)==1)
#define LEAD_SILENT (IN(g,lead[g],b)==0)
#endif
inline choose() {           /* commit.pml's */
#if K>1
  x = K; h = 0;
  do :: x>0 && PH(g,b)==0 -> h = h+CNT(g,b,x); if :: CNT(g,b,x)>0 && POSSIBLE(COUNT(promised_b)-h) -> PH(g,b) = PH(g,x) :: else fi; x--
     :: else -> break
  od;
#endif
  if
#if K>1
     :: PH(g,b)!=0
#endif
     :: PH(g,b)==0 && LEAD_FREE -> if :: READ(g,b)>=W -> PH(g,b) = COMMIT :: else -> PH(g,b) = ABORT fi
     :: PH(g,b)==0 && LEAD_SILENT -> if :: READ(g,b)>0 && POSSIBLE(COUNT(promised_b)-READ(g,b)) -> PH(g,b) = COMMIT :: else -> PH(g,b) = ABORT fi
  fi;
  READ(g,b) = 0; for (x : 0 .. K) { CNT(g,b,x) = 0 } for (x : 0 .. N-1) { setIN(g,x,b,0) } x = 0; h = 0
}
/* In doubt for ever, unless a destroyed member comes back: all that live promise to one more ballot (so no earlier one can win any more), they are
   bound to choose commit, and one of them cannot accept it, for it holds the other one, which is in the same case. The owners have stopped. */
#define AMONG(f)    ((!dead[0] && f(0))+(!dead[1] && f(1))+(!dead[2] && f(2)))
#define LOST        (dead[0]+dead[1]+dead[2]==N-W)
#define OPEN(x)     (base[x]<3 && !decC[x] && !decA[x] && ST(x,lead[x])!=SEALED)
#define prep0(i) (ST(0,i)==PREP)
#define prep1(i) (ST(1,i)==PREP)
#define accepted0(i) (ACC(0,i)==1)
#define accepted1(i) (ACC(1,i)==1)
#define cross01(i) (ST(0,i)!=PREP && ST(1,i)==PREP)
#define cross10(i) (ST(1,i)!=PREP && ST(0,i)==PREP)
#ifdef M_BOUND
#define SILENT(x) true
#else
#define SILENT(x) dead[lead[x]]
#endif
#define BOUND(x,accepted,prepared) (AMONG(accepted)>0 && POSSIBLE(W-AMONG(accepted)) -> PH(x,1)==COMMIT : SILENT(x) && AMONG(prepared)>0 && POSSIBLE(W-AMONG(prepared)))
#define STUCK (LOST && OPEN(0) && OPEN(1) && AMONG(cross01)>0 && AMONG(cross10)>0 && BOUND(0,accepted0,prep0) && BOUND(1,accepted1,prep1))
#ifndef DOUBT               /* what may leave both in doubt for ever */
#define DOUBT 2
#endif
#define EXEMPT ((DOUBT>0 && dead[lead[0]] && dead[lead[1]]) || (DOUBT>1 && (COUNT(voted0)>0 || COUNT(voted1)>0)))
#define voted0(i) (ACC(0,i)==1 && PH(0,1)==COMMIT)
#define voted1(i) (ACC(1,i)==1 && PH(1,1)==COMMIT)
#define SAME(i,j) (hist[i]==hist[j] || hist[i]==0 || hist[j]==0 || hist[i]==hist[j]>>2 || hist[j]==hist[i]>>2)
inline check() {
  assert(!(decC[0] && decA[0]) && !(decC[1] && decA[1]));
  assert(!(decC[0] && decC[1] && base[0]==base[1]));                 /* one chosen at a version */
  assert(SAME(0,1) && SAME(0,2) && SAME(1,2));                       /* one history, also on those that were destroyed */
  assert(!STUCK || EXEMPT);
  assert((!decC[0] || COUNT(without0)<W) && (!decC[1] || COUNT(without1)<W))
}

active proctype World() {
  byte i, b, g, h, x;
  d_step { base[0]=3; base[1]=3 }
  if :: lead[1]=0 :: lead[1]=1 fi;
end: do
  :: atomic {
     if :: i=0 :: i=1 :: i=2 fi;
     if :: dead[i] -> goto next :: else fi;
     if :: g=0 :: g=1 fi;
     if
     :: base[g]==3 && i==lead[g] && !HELD(i) && VER(i)<2 -> setST(g,i,SEALED); base[g] = VER(i); if :: COUNT(past)>0 -> decA[g] = 1 :: else fi
     :: base[g]<3 && i!=lead[g] && TOLD(g,i)==0 && ACCEPTABLE(g,i) && !FENCED(g,i,0) -> setST(g,i,PREP); setTOLD(g,i,YES)
     :: base[g]<3 && i!=lead[g] && TOLD(g,i)==0 -> setTOLD(g,i,NO); if :: COUNT(said_no)>=N-1 -> decA[g] = 1 :: else fi
     :: ST(g,i)==SEALED && COUNT(said_yes)>=W-1 && !untold[g] -> put(g,i); decC[g] = 1
     :: ST(g,i)==SEALED -> setST(g,i,NONE)
     :: base[g]<3 && i==lead[g] && !untold[g] && ST(g,i)!=COMM -> untold[g] = 1
     :: decC[g] && ST(g,i)==PREP -> put(g,i)
     :: decA[g] && ST(g,i)==PREP -> setST(g,i,NONE)
     :: NEXT(g,i) && ((!dead[0] && SOURCE(0)) || (!dead[1] && SOURCE(1)) || (!dead[2] && SOURCE(2))) -> put(g,i)
#if D>0
     :: dead[0]+dead[1]+dead[2]<D -> dead[i] = 1
#endif
     :: base[g]<3 -> if :: b=1
#if K>1
        :: b=2
#endif
        fi;
        if
        :: PROM(g,i)<=b && ST(g,i)!=SEALED && ST(g,i)!=COMM && !PAST(g,i) ->
             if :: PH(g,b)==0 && IN(g,i,b)==0 -> setIN(g,i,b,1); READ(g,b) = READ(g,b)+(ST(g,i)==PREP);
#if K>1
                   if :: ACC(g,i)>0 -> CNT(g,b,ACC(g,i)) = CNT(g,b,ACC(g,i))+1 :: else fi
#endif
                :: true fi;
             setPROM(g,i,b)
        :: PH(g,b)==0 && COUNT(promised_b)>=W -> choose()
        :: PH(g,b)==ABORT && PROM(g,i)<=b && !IN(g,i,b) && ST(g,i)!=SEALED && ST(g,i)!=COMM -> setPROM(g,i,b); setACC(g,i,b); setIN(g,i,b,1); if :: COUNT(promised_b)>=W -> decA[g] = 1 :: else fi
        :: PH(g,b)==COMMIT && PROM(g,i)>=b && !FENCED(g,i,b) && ACCEPTABLE(g,i) -> setST(g,i,PREP)
        :: PH(g,b)==COMMIT && PROM(g,i)<=b && !IN(g,i,b) && ST(g,i)==PREP && COPIED -> setPROM(g,i,b); setACC(g,i,b); setIN(g,i,b,1); if :: COUNT(promised_b)>=W -> decC[g] = 1 :: else fi
        :: else
        fi
     :: else
     fi;
     g = 0; if :: COUNT(past)>0 -> decA[0] = 1 :: else fi; g = 1; if :: COUNT(past)>0 -> decA[1] = 1 :: else fi;   /* superseded: may be read at any later time */
     check();
next: i = 0; b = 0; g = 0; x = 0 }
  od
}
