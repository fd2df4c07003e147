import java.util.*;
import java.util.function.*;
import java.util.stream.*;

/** Loops that both compilers get to see: floating point, vectors, allocation, interfaces, strings, deoptimisation. */
public class Compute {
    static double nbody(int steps) {
        double[][] b = {{0, 0, 0, 0, 0, 0, 39.47}, {4.84, -1.16, -0.1, 0.6, 2.81, -0.02, 0.037}, {8.34, 4.12, -0.4, -1.01, 1.82, 0.008, 0.011}};
        for (int s = 0; s < steps; s++) {
            for (double[] p : b) {
                for (double[] q : b) {
                    if (p == q) {
                        continue;
                    }
                    double x = p[0] - q[0], y = p[1] - q[1], z = p[2] - q[2];
                    double m = 0.001 * q[6] / Math.pow(x * x + y * y + z * z, 1.5);
                    p[3] -= x * m;
                    p[4] -= y * m;
                    p[5] -= z * m;
                }
            }
            for (double[] p : b) {
                for (int i = 0; i < 3; i++) {
                    p[i] += 0.001 * p[i + 3];
                }
            }
        }
        return b[0][0] + b[1][1] + b[2][2];
    }

    sealed interface Shape permits Circle, Square {
        double area();
    }

    record Circle(double r) implements Shape {
        public double area() {
            return Math.PI * r * r;
        }
    }

    record Square(double a) implements Shape {
        public double area() {
            return a * a;
        }
    }

    record Node(Node left, Node right) {
        static Node tree(int depth) {
            return depth == 0 ? new Node(null, null) : new Node(tree(depth - 1), tree(depth - 1));
        }

        int count() {
            return left == null ? 1 : 1 + left.count() + right.count();
        }
    }

    public static void main(String[] args) {
        System.out.println(nbody(300_000));
        BitSet composite = new BitSet(3_000_000);
        int primes = 0;
        for (int i = 2; i < 3_000_000; i++) {
            if (composite.get(i)) {
                continue;
            }
            primes++;
            for (long j = (long) i * i; j < 3_000_000; j += i) {
                composite.set((int) j);
            }
        }
        System.out.println(primes);
        float[] a = new float[1 << 16], c = new float[1 << 16];
        for (int i = 0; i < a.length; i++) {
            a[i] = i * 0.5f;
        }
        for (int round = 0; round < 300; round++) {
            for (int i = 0; i < a.length; i++) {
                c[i] += a[i] * 1.5f - round;
            }
        }
        System.out.println(c[12_345] + " " + Arrays.hashCode(c));
        Random random = new Random(42);
        long[] numbers = random.longs(500_000).toArray();
        Arrays.parallelSort(numbers);
        System.out.println(numbers[0] + " " + numbers[250_000]);
        double area = 0;
        for (int i = 0; i < 2_000_000; i++) {
            Shape shape = i % 3 == 0 ? new Circle(i & 7) : new Square(i & 3);
            area += shape.area();
        }
        System.out.println(area);
        int nodes = 0;
        for (int i = 0; i < 12; i++) {
            nodes += Node.tree(15).count();
        }
        System.out.println(nodes);
        Map<String, Integer> counts = new TreeMap<>();
        for (int i = 0; i < 200_000; i++) {
            counts.merge(Integer.toString(random.nextInt(5000), 36), 1, Integer::sum);
        }
        System.out.println(counts.size() + " " + counts.entrySet().stream().max(Map.Entry.comparingByValue()).get());
        StringBuilder builder = new StringBuilder();
        for (int i = 0; i < 100_000; i++) {
            builder.append(i % 10).append((char) ('a' + i % 26));
        }
        System.out.println(builder.toString().hashCode() + " " + builder.toString().chars().filter(Character::isDigit).sum());
        IntUnaryOperator[] steps = {x -> x + 1, x -> x * 3, x -> x ^ 0x55, Integer::reverse, x -> x >>> 1};
        int value = 1;
        for (int i = 0; i < 3_000_000; i++) {
            value = steps[i % steps.length].applyAsInt(value);
        }
        System.out.println(value);
        System.out.println(IntStream.rangeClosed(1, 200).mapToObj(java.math.BigInteger::valueOf).reduce(java.math.BigInteger::multiply).get().mod(java.math.BigInteger.valueOf(1_000_000_007)));
        int caught = 0;
        for (int i = 0; i < 200_000; i++) {
            try {
                int[] few = new int[i % 5];
                caught += few[i % 4] + 2;
            } catch (ArrayIndexOutOfBoundsException e) {
                caught++;
            }
        }
        System.out.println(caught);
    }
}
