"""Kills for want of memory, from what the kernel logs."""

from drill.kernel_log import count_oom_kills

LINE = (
    "6,{number},{at},-;oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=drill-one-12345678,"
    "mems_allowed=0,oom_memcg=/{limit},task_memcg=/{group},task=python3,pid=23010,uid=0\n"
)


def line(at: int, group: str) -> str:
    return LINE.format(number=at, at=at, limit=group, group=group)


LOG = [
    "4,1,10,-;python3 invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0\n",
    line(20, "drill-one-12345678/docker/abc"),
    line(30, "drill-one-12345678"),
    line(40, "drill-one-87654321/system.slice/x.service"),
    "6,5,50,-;Memory cgroup out of memory: Killed process 23010 (python3)\n",
]


def test_kills_in_the_group_and_below_it_count():
    assert count_oom_kills(LOG, "drill-one-12345678", 0) == 2


def test_kills_before_the_start_do_not():
    assert count_oom_kills(LOG, "drill-one-12345678", 25) == 1


def test_kills_of_a_namesake_do_not():
    assert count_oom_kills(LOG, "drill-one", 0) == 0
