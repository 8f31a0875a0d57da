"""What watches, and when: new scans on the detectors' disks, work that is due, tasks at the facilities."""
