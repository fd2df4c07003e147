/** An ordinary program, not a function. */
public class Program {
    public static void main(String[] arguments) {}
}
