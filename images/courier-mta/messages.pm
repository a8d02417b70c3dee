# The messages in Courier's queue, as its control files tell of them; a letter at the start of a line says what the line is (comctlfile.h). Held messages lie beside it.
package messages;
use strict;
use warnings;
use POSIX ();

our $queue = '/var/lib/courier';

sub as_courier { exec 'setpriv', '--reuid=courier', '--regid=courier', '--clear-groups', $0, @ARGV unless $> }

# Every message: its id, control and data file, and whether it is held.
sub all {
    my @found;
    for my $path (glob("$queue/msgs/*/C*"), glob("$queue/held/*.C")) {
        my $data = $path =~ /\.C$/ ? $path =~ s/C$/D/r : $path =~ s{/C(\d+)$}{/D$1}r;
        my $id = id($path) // next;    # delivered meanwhile
        push @found, { id => $id, control => $path, data => $data, held => scalar $path =~ m{/held/} };
    }
    return @found;
}

sub id { # CONTROL-FILE. What stands before the first dot is the number of a file, which a copy has not.
    open my $file, '<', $_[0] or return;
    while (<$file>) { return $1 if /^M[0-9A-F]+\.([0-9A-F]+\.[0-9A-F]+)$/ }
    return;
}

# What a message needs to be in the queue: files whose names are the number of the control file, and a link whose name says when it is due.
sub enqueue { # CONTROL-FILE DATA-FILE
    my ($control, $data) = @_;
    my $number = (stat $control)[1] // return 0;
    my $now = time;
    my $place = "$queue/msgs/" . $number % 100;
    my $due = "$queue/msgq/" . substr $now, 0, -4;
    mkdir $_, 0755 for $place, $due;
    return link($control, "$due/C$number.$now") && rename($data, "$place/D$number") && rename $control, "$place/C$number";
}

sub dequeue { # CONTROL-FILE: its link goes
    my ($number) = $_[0] =~ m{/C(\d+)$} or return;
    unlink glob "$queue/msgq/*/C$number.*";
}

# Runs a piece of work while nothing is delivered. A delivery that takes longer than some seconds ends as if the line had broken: it is tried again.
sub quietly {
    my ($work) = @_;
    my $services = '. /usr/local/lib/stackctl/services';
    system 'sh', '-c', "$services; queue_down 5 || pkill -x \"\$modules|courierdeliver\" && until_true 2 idle";
    $work->();
    system 'sh', '-c', "$services; up queue";
}
1;
