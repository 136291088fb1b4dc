#!/bin/sh
# A SLURM of one node on this machine, for the tests: cluster.sh start|stop FOLDER. Needs Debian's slurm-wlm and munge, as root.
set -e
action=$1 folder=$2
case $action in
start)
    mkdir -p "$folder/state" "$folder/spool" /run/munge
    if [ ! -s /etc/munge/munge.key ]; then
        dd if=/dev/urandom of=/etc/munge/munge.key bs=1024 count=1 2>/dev/null
    fi
    chown -R munge: /etc/munge /run/munge /var/lib/munge /var/log/munge
    chmod 400 /etc/munge/munge.key
    pgrep -x munged >/dev/null || runuser -u munge -- munged
    node=$(hostname -s)
    cat >"$folder/slurm.conf" <<CONF
ClusterName=drgn
SlurmctldHost=$node(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
JobRequeue=1
SchedulerType=sched/builtin
KillWait=5
MinJobAge=3600
MpiDefault=none
NodeName=$node NodeAddr=127.0.0.1 CPUs=$(nproc) State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
    SLURM_CONF="$folder/slurm.conf" slurmctld
    SLURM_CONF="$folder/slurm.conf" slurmd
    ;;
stop)
    for name in slurmd slurmctld; do
        if [ -s "$folder/$name.pid" ]; then kill "$(cat "$folder/$name.pid")"; fi
    done
    ;;
esac
