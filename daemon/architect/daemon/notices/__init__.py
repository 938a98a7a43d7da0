"""What this machine's end is announced by: the cloud's metadata service, and marks on the node.

::

    lookout     finds the metadata service, asks it again and again, tells of each change
    notice      what an announcement is (pure)
    board       what stands, what is new, changed or withdrawn (pure)
    clock       times of another clock as moments of this machine's (pure)
    firstseen   moments that count from when something was first seen, beyond a restart
    providers   what a cloud's module must offer, and which there are
    aws, gcp, azure
    detection   which of them this machine is of
    metadata    one request, bounded in time and size
    hostnetwork from where it is made
    nodemarks   taints, labels and conditions of a Node object (pure); nodewatch reads them
    troubles    what goes wrong, said when it is news
"""
